"""Sections `checkpoint` and `evaluate` of a run file: what is kept of a run, and what is measured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from heterotune.config.field_types import Count, CountOrZero, Flag, Integer, NotNegative, Section


class CheckpointConfig(Section):
    """What is kept of a run so that it can go on after its job has ended."""

    every_rounds: CountOrZero = 1
    """Rounds between checkpoints, from before the first; 0 = only when the run is stopped and after the last round."""
    keep: Count = 2
    """Newest checkpoints to keep, at least 1."""
    keep_best: Flag = True
    """Keep the checkpoint with the lowest held-out loss (mean over the model types), too."""
    progress_seconds: NotNegative | Literal["never"] = 30.0
    """Shortest time in seconds between two savings of a round's finished chunks, at least 0; or "never"."""

    @property
    def progress_every_seconds(self) -> float | None:
        """`progress_seconds` as a number; None = never."""
        return None if self.progress_seconds == "never" else self.progress_seconds


def _check_metrics(metrics: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """The loss always, none twice."""
    if metrics != "auto" and "loss" not in metrics:
        raise ValueError("leaves out the loss, by which the best checkpoint is picked. Add loss.")
    if metrics != "auto" and len(set(metrics)) < len(metrics):
        raise ValueError("repeats a metric. Name each metric once.")
    return metrics


MetricName = Literal["loss", "accuracy", "exact_match"]
Metrics = Annotated[Literal["auto"] | tuple[MetricName, ...], AfterValidator(_check_metrics)]


class EvaluateConfig(Section):
    """When and on how much held-out text the fleet is evaluated."""

    every_rounds: Count = 1
    """Rounds between evaluations, at least 1; after the last round always."""
    before_first: Flag = True
    """Evaluate before the first round, too; without it the "before" figures are those of the first evaluation."""
    max_rows: Count = 128
    """Held-out rows in all, spread over the clients, at least 1."""
    batch_size: Count = 16
    """Rows per evaluation pass, at least 1."""
    metrics: Metrics = "auto"
    """What is measured, of loss, accuracy, exact_match; "auto" = loss, and accuracy where documents have choices."""
    choice_score: Literal["sum", "mean"] = "sum"
    """How accuracy compares answers: by the sum of their tokens' log-probabilities, or by the mean (longer answers)."""
    own_adapters: Literal["own_rows", "all_rows"] = "own_rows"
    """Held-out rows that a client's own adapter is tried on, where clients have such: its own, or those of the fleet;
    "all_rows" costs as much as an evaluation of the common adapter for every client."""
    by_label: Flag = False
    """Write the accuracy of every class, too; for documents with labels."""
    max_new_tokens: Annotated[Integer, Field(ge=1, le=2**20)] = 32
    """Most tokens that a model writes for exact_match, at least 1; each costs a pass over the prompts."""
