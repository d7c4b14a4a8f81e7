"""Which clients' updates count in a round, and why the others do not. Pure decisions on one client at a time.

Every rank judges its own clients; what it needs of the others (the last round's median norm) is known before the round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from heterotune.aggregation.distances import squared_norm
from heterotune.aggregation.exact import LIMIT
from heterotune.config.fault_options import UpdateLimits
from heterotune.errors import AggregationError, TooFewClients

Reason = Literal["dropped_out", "interrupted", "late", "empty", "wrong_shape", "not_finite", "too_large"]
REASONS: tuple[Reason, ...] = ("dropped_out", "interrupted", "late", "empty", "wrong_shape", "not_finite", "too_large")
"""In the order in which they are looked for."""


@dataclass(frozen=True)
class Verdict:
    """Whether one client's update counts.

    Attributes:
        client_id: The client.
        reason: Why it does not count; None = it counts.
        detail: What was seen, for the log.
        norm: The update's Euclidean norm, where a limit asks for it and there is an update with finite elements.
    """

    client_id: int
    reason: Reason | None = None
    detail: str = ""
    norm: float | None = None

    @property
    def counts(self) -> bool:
        """True if the update goes into the round's sums."""
        return self.reason is None


def judge_update(
    client_id: int,
    update_P: Tensor,
    *,
    num_elements: int,
    num_rows: int,
    limits: UpdateLimits,
    usual_norm: float | None,
) -> Verdict:
    """Decide on one client's decoded update.

    Args:
        client_id: The client.
        update_P: What arrived, float32 or float64. Not changed.
        num_elements: P that its model type sends.
        num_rows: Rows that it trained on; one without rows has nothing to say.
        limits: The run's limits.
        usual_norm: Median norm of the model type's last round, None if there was none; see `usual_norms`.

    Returns:
        The first reason that applies in the order of `REASONS`, with what was seen.
    """
    if num_rows == 0:
        return Verdict(client_id, "empty", "it has no rows")
    if update_P.shape != (num_elements,):
        return Verdict(client_id, "wrong_shape", f"shape {tuple(update_P.shape)}, expected {(num_elements,)}")
    peak = _peak(update_P)
    if not peak < float("inf"):
        num_bad = int((~torch.isfinite(update_P)).sum())
        return Verdict(client_id, "not_finite", f"{num_bad} of {num_elements} elements are not finite")
    norm = squared_norm(update_P) ** 0.5 if limits.need_norms else None
    too_large = _too_large(peak, norm, limits, usual_norm)
    return Verdict(client_id, "too_large" if too_large else None, too_large, norm)


def refuse_faulty(verdict: Verdict, limits: UpdateLimits) -> None:
    """Stop the run at a faulty update if the run asks for that.

    Raises:
        AggregationError: Under `faulty: stop`, for an update that is not finite, of the wrong shape, or too large.
    """
    if limits.faulty == "stop" and verdict.reason in ("wrong_shape", "not_finite", "too_large"):
        told = f"client {verdict.client_id}: its update is refused ({verdict.reason}: {verdict.detail})"
        raise AggregationError(f"{told}. To leave such clients out of a round, set faulty: quarantine.")


def usual_norms(
    verdicts: Iterable[Verdict], type_of_client: Callable[[int], int], before: Mapping[int, float]
) -> dict[int, float]:
    """Return each model type's median norm over a round's updates that counted, for the next round's limits.

    Args:
        verdicts: A round's, of all ranks; any order.
        type_of_client: Returns the place of a client's model type.
        before: The last result; a type of which no update counted keeps its entry.
    """
    norms: dict[int, list[float]] = {}
    for verdict in verdicts:
        if verdict.counts and verdict.norm is not None:
            norms.setdefault(type_of_client(verdict.client_id), []).append(verdict.norm)
    return {**before, **{place: float(np.median(of_type)) for place, of_type in norms.items()}}


def quarantine_metrics(verdicts: Iterable[Verdict], num_empty: int = 0) -> list[dict[str, Any]]:
    """Return a round's numbers: clients that counted, and one number for every reason, zeros included.

    Args:
        verdicts: Of the round's cohort.
        num_empty: Clients of the fleet that have no rows, so that no cohort has them.
    """
    counts = Counter(verdict.reason for verdict in verdicts)
    counts["empty"] += num_empty
    names = [("clients/counted", counts[None]), *((f"clients/{reason}", counts[reason]) for reason in REASONS)]
    return [{"name": name, "value": value, "unit": "clients"} for name, value in names]


def round_goes_on(num_counted: int, *, min_clients: int, too_few: Literal["skip", "stop"], round_number: int) -> bool:
    """Return True if enough clients counted, False if the round changes nothing and the run goes on.

    Raises:
        TooFewClients: If there are too few and the run asks to stop then.
    """
    if num_counted >= min_clients:
        return True
    if too_few == "stop":
        told = f"round {round_number}: {num_counted} clients counted, cohort.min_clients is {min_clients}"
        raise TooFewClients(f"{told}. Raise cohort, lower min_clients, or set cohort.too_few: skip.")
    return False


def _peak(update_P: Tensor) -> float:
    """Return the largest absolute element, NaN if one is."""
    if update_P.numel() == 0:
        return 0.0
    return float(torch.maximum(-update_P.amin(), update_P.amax()))


def _too_large(peak: float, norm: float | None, limits: UpdateLimits, usual_norm: float | None) -> str:
    """Return what is too large about an update, "" if nothing is."""
    if peak >= LIMIT:
        return f"an element reaches {peak:.6g}, {LIMIT:.0f} and above cannot be summed"
    if norm is None:
        return ""
    if limits.max_norm is not None and norm > limits.max_norm:
        return f"norm {norm:.6g} is above max_norm = {limits.max_norm:g}"
    if limits.max_norm_factor is not None and usual_norm is not None and norm > limits.max_norm_factor * usual_norm:
        return f"norm {norm:.6g} is above {limits.max_norm_factor:g} times the usual {usual_norm:.6g}"
    return ""
