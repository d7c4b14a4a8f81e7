"""Options of `strategy: heterotune`; its "auto" becomes the form that the evidence favours for a run's data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import model_validator

from heterotune.config.field_types import (
    LARGEST_COUNT,
    Count,
    CountOrZero,
    Decay,
    Flag,
    NotNegative,
    Positive,
    Section,
    Share,
)
from heterotune.config.method_options import Targets
from heterotune.config.methods import METHODS, Needs

OF_LABELS: Mapping[str, Any] = {"head_outputs": "labels", "align_positions": "answer"}
OF_TEXT: Mapping[str, Any] = {"head_outputs": "vocabulary", "align_positions": "all"}
DISTILLED: Mapping[str, Any] = {"head_scope": "type", "head_rank": 64, "align": "gcca_shrunk", "distill_every": 4}
SHARED: Mapping[str, Any] = {"head_scope": "fleet", "head_rank": 32, "align": "gcca", "distill_every": 0}
POSITIONS = {"answer": 512, "all": 4096}
"""Public positions that are enough, by `align_positions`."""
LESSON = {"adamw": 32}
"""Steps of the server's lesson, by the clients' optimiser: the lesson is AdamW's, and its rate a share of theirs."""


class HeterotuneOptions(Section):
    """DeMA and CMGA: which branches there are, who shares them, and how model types are aligned."""

    adapter_rank: Count = 8
    """Rank of the LoRA branches of a layer, at least 1; a fleet entry may override it."""
    adapter_alpha: Positive = 16.0
    """LoRA's alpha, above 0; a branch is scaled by alpha / rank."""
    targets: Targets = "all-linear"
    """Linear layers that get an adapter: "all-linear", or a list of some of q_proj, k_proj, v_proj, o_proj, gate_proj,
    up_proj, down_proj."""
    lora_scope: Literal["width", "type", "split"] = "width"
    """Who shares LoRA: "width" = siblings, by original layer; "type" = clients of one model type; "split" = half
    of the rank each."""
    lora_layers: CountOrZero | Literal["all"] = "all"
    """Layers with LoRA: "all", or that many of a model's last; 0 = none, so that the head branch is all there is."""
    head_rank: CountOrZero | Literal["auto"] = "auto"
    """Rank of the head branch, at most the narrowest model's width; 0 = no head branch; "auto" = 64 where types learn
    from one another by `distill_every`, else 32, or the narrowest model's width or `head_basis` if that is less."""
    head_scope: Literal["auto", "fleet", "width", "type"] = "auto"
    """Who shares the head branch: "fleet" = all model types; "width" = siblings; "type" = clients of one model type;
    "auto" = "type" where `distill_every` lets types learn from one another, else "fleet"."""
    head_outputs: Literal["auto", "vocabulary", "labels"] = "auto"
    """What the head branch answers in: directions of the whole vocabulary, or the tokens of the data's class names;
    "auto" = "labels" where the data has classes and `data.public` names a source, else "vocabulary"."""
    head_basis: Count = 64
    """Columns of the common vocabulary basis of the head branch, at least head_rank; under `head_outputs: labels` the
    run sets it to the number of tokens that occur in class names."""
    head_learning_rate_scale: Positive = 1.0
    """Learning rate of the head branch in units of local.learning_rate, above 0."""
    personal_rank: CountOrZero = 0
    """Rank of the branch that never leaves a client; 0 = none."""
    gates: Literal["fixed", "trained"] = "fixed"
    """Mixture weights of the branches: all 1, or one trained scalar per site and branch."""
    activation: Literal["none", "silu"] = "none"
    """Between the two halves of a layer's branch: nothing, which makes it a LoRA, or SiLU, which no LoRA can be."""
    align: Literal["auto", "none", "pca", "procrustes", "gcca", "gcca_shrunk"] = "auto"
    """How the input side of the head branch is aligned between model types, on public text only; "auto" =
    "gcca_shrunk" where types learn from one another by `distill_every`, else "gcca"."""
    align_tokens: Count | Literal["auto"] = "auto"
    """Public token positions that the alignment and distillation read, at least 1; "auto" = 512 answers, or 4096."""
    align_positions: Literal["auto", "all", "answer"] = "auto"
    """Positions that count: all targets of the public rows, or of each row the one before its answer; texts of
    `data.public` then are questions in the task's template, and no public label is read; "auto" = "answer" where the
    data has classes and `data.public` names a source, else "all"."""
    realign_every: CountOrZero = 0
    """Rounds after which the head branch is aligned anew, with the adapters as they are then; 0 = only before round 1.
    Clients download the new maps."""
    distill_every: CountOrZero | Literal["auto"] = "auto"
    """Rounds after which every head branch moves towards what all model types answer on the public rows; 0 = never.
    Needs `head_outputs: labels`, `align_positions: answer` and a `head_scope` of "type" or "width"; "auto" = the
    divisor of `rounds` nearest to 4, so that the run ends with a lesson, where the fleet has several model types (under
    `head_scope: width` other ones than siblings), the data has classes, `data.public` names a source, and the other
    options allow it; else 0."""
    distill_steps: CountOrZero | Literal["auto"] = "auto"
    """Steps of AdamW on public rows that every model type's adapter then makes towards that answer, in the server;
    0 = none, heads alone learn; "auto" = 32 where `local.optimizer` is adamw, else 0: other optimisers' rates are not
    AdamW's."""
    distill_learning_rate_scale: Positive = 0.3
    """Learning rate of these steps in units of local.learning_rate, above 0."""
    cmga: Literal["none", "project", "cagrad", "mgda", "gradvac", "aligned_mtl", "cosine"] = "project"
    """Cross-model gradient alignment when updates of several model types meet: how they become one direction."""
    cmga_tasks: Literal["types", "clients"] = "types"
    """Whose updates are aligned: the model types' means, or every client's, also within one model type."""
    cmga_granularity: Literal["tensor", "depth_class", "branch", "model"] = "depth_class"
    """Group of tensors within which CMGA compares directions."""
    cmga_rescale: Flag = True
    """Give CMGA's result the norm of the plain weighted mean."""
    cmga_cagrad_c: Decay = 0.4
    """Radius of the ball around the mean in which `cmga: cagrad` looks, in norms of the mean, in [0, 1); 0 = none."""
    cmga_gradvac_beta: Share = 0.5
    """How fast the target cosines of `cmga: gradvac` follow those of a round, above 0 and at most 1."""
    cmga_cosine_power: NotNegative = 1.0
    """Power of the cosine with the mean by which `cmga: cosine` weighs, at least 0; 0 = only leave out who opposes."""

    @property
    def needs(self) -> Needs:
        """What these options make the server need of a round's updates; see `config.methods.Method`."""
        if self.cmga == "none":
            return METHODS["heterotune"].needs
        if self.cmga_tasks == "clients":
            return "single updates"
        return "whole sums" if self.cmga == "gradvac" else METHODS["heterotune"].needs

    def realigns(self, round_number: int) -> bool:
        """Return whether the head branch is aligned anew after a round: also the last, which a run can go on from."""
        return bool(self.realign_every) and round_number % self.realign_every == 0

    def distills(self, round_number: int) -> bool:
        """Return whether head branches learn from one another after a round."""
        return bool(self.distill_every) and round_number % self.distill_every == 0

    def num_heads(self, families: Sequence[str]) -> int:
        """Return how many head branches a fleet has; under `head_scope: auto` each type may have its own.

        Args:
            families: Of each model type; siblings have the same.
        """
        return {"fleet": 1, "width": len(set(families))}.get(self.head_scope, len(families))

    def settled(
        self,
        *,
        asks_questions: bool,
        families: Sequence[str],
        rounds: int,
        optimizer: str,
        narrowest: int | None = None,
    ) -> HeterotuneOptions:
        """Return the options with every "auto" decided that can be: by what is measured in docs/evidence.md.

        Args:
            asks_questions: The data has classes, and its public text is questions of the same task without answers.
            families: Of each model type of the fleet; a head alone has nobody to learn from.
            rounds: Of the run.
            optimizer: The clients'.
            narrowest: Width of the fleet's narrowest model; None = not read yet, and `head_rank` stays as it is.
        """
        learns = self.distill_every not in (0, "auto")
        if self.distill_every == "auto":
            learns = asks_questions and self.num_heads(families) > 1 and self._can_distill
        chosen = {**(OF_LABELS if asks_questions or learns else OF_TEXT), **(DISTILLED if learns else SHARED)}
        if chosen["distill_every"]:
            chosen["distill_every"] = _nearest_divisor(rounds, chosen["distill_every"])
        chosen["distill_steps"] = LESSON.get(optimizer, 0)
        known = {key: value for key, value in chosen.items() if getattr(self, key) == "auto"}
        if self.align_tokens == "auto":
            known["align_tokens"] = POSITIONS[known.get("align_positions", self.align_positions)]
        if "head_rank" in known:
            known["head_rank"] = self._fitting(known, narrowest)
        settled = self.model_copy(update=known)
        settled.model_fields_set.difference_update(known)  # nobody set these: another run decides anew
        return settled

    def _fitting(self, known: Mapping[str, Any], narrowest: int | None) -> int | Literal["auto"]:
        """Return the rank of the head that was chosen, as far as models and vocabulary basis have room for it."""
        if narrowest is None:
            return "auto"
        has_basis = known.get("head_outputs", self.head_outputs) == "vocabulary"
        return min(known["head_rank"], narrowest, *([self.head_basis] if has_basis else []))

    @property
    def _can_distill(self) -> bool:
        """Whether no option keeps heads from learning from what others answer."""
        return (
            self.head_rank != 0
            and self.head_scope != "fleet"
            and self.head_outputs != "vocabulary"
            and self.align_positions != "all"
        )

    @model_validator(mode="after")
    def _check_branches_are_there(self) -> HeterotuneOptions:
        """What is asked for has a branch to be done to."""
        if self.lora_layers == 0 and not self.head_rank:
            raise ValueError("lora_layers = 0 and head_rank = 0 leave nothing to train. Raise one of them.")
        if self.lora_layers == 0 and self.personal_rank:
            text = f"personal_rank = {self.personal_rank} is the rank of branches in layers, and lora_layers = 0"
            raise ValueError(f"{text} leaves no layer to have one. Raise lora_layers, or set personal_rank: 0.")
        if self.realign_every and not self.head_rank:
            text = f"realign_every = {self.realign_every} aligns the head branch anew, and head_rank = 0 leaves it out"
            raise ValueError(f"{text}. Raise head_rank, or set realign_every: 0.")
        return self

    @model_validator(mode="after")
    def _check_distillation(self) -> HeterotuneOptions:
        """Answers are compared where they begin, and among labels; one core for all has nobody to learn from."""
        if self.distill_every not in (0, "auto") and not self._can_distill:
            text = f"distill_every = {self.distill_every} lets head branches learn from what others answer"
            told = "head_outputs: labels, align_positions: answer, head_scope: type"
            raise ValueError(f"{text}. Set {told} and a head_rank above 0.")
        return self

    @model_validator(mode="after")
    def _check_targets_are_kept(self) -> HeterotuneOptions:
        """Model types meet again in every round, clients do not."""
        if self.cmga == "gradvac" and self.cmga_tasks == "clients":
            text = "cmga = gradvac follows pairs over rounds, and cmga_tasks = clients meet too seldom"
            raise ValueError(f"{text}. Set cmga_tasks: types, or another cmga.")
        return self


def _nearest_divisor(number: int, wanted: int) -> int:
    """Return the divisor of a number that is nearest to the wanted one, the smaller of two."""
    return min((each for each in range(1, 2 * wanted) if number % each == 0), key=lambda each: abs(each - wanted))


def settled_among(sections: Mapping[str, Any], *, narrowest: int | None = None) -> HeterotuneOptions:
    """Return section `heterotune` as `settled` leaves it in a run.

    Args:
        sections: Valid sections of the run by name, data, fleet and local among them; without `rounds`, there are many.
        narrowest: As for `settled`.
    """
    return sections["heterotune"].settled(
        asks_questions=sections["data"].asks_questions,
        families=[entry.family for entry in sections["fleet"]],
        rounds=sections.get("rounds", LARGEST_COUNT),
        optimizer=sections["local"].optimizer,
        narrowest=narrowest,
    )
