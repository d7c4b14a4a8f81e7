"""What the server knows of the clients that reported how their training went; nothing about the others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

REPORT = np.dtype(
    [("client_id", "<i8"), ("model_type", "<i4"), ("num_rows", "<i8"), ("loss", "<f8"), ("square", "<f8")]
)
"""A client's report of a round: mean loss of its steps in nats per token, and mean of their squares."""

RECORD = np.dtype([*REPORT.descr, ("seconds", "<f8"), ("last_round", "<i8"), ("num_rounds", "<i8")])
"""The last report, the simulated seconds that it took (0 = unknown), its round, and how many there were."""


class ClientRecords:
    """The last report of every client that ever reported, the same on all ranks; memory grows with these clients only.

    Attributes:
        seen: One record a client, in client order. Not to be changed.
        utilities: For each round that brought reports the sum of their statistical utilities; see `oort.py`.
    """

    def __init__(self) -> None:
        """Begin with nobody known."""
        self.seen = np.empty(0, dtype=RECORD)
        self.utilities: list[float] = []

    def observe(self, reports: np.ndarray, *, seconds: Mapping[int, float], round_number: int) -> None:
        """Take the reports of a round; those with a loss that is not finite say nothing.

        Args:
            reports: Of dtype REPORT, each client once, in any order.
            seconds: Client id -> simulated seconds from the draw to the arrival of its update, where they are known.
            round_number: The round.
        """
        reports = reports[np.isfinite(reports["loss"]) & np.isfinite(reports["square"])]
        reports = reports[np.argsort(reports["client_id"])]
        fresh = np.zeros(len(reports), dtype=RECORD)
        for name in REPORT.names:
            fresh[name] = reports[name]
        fresh["seconds"] = [seconds.get(client_id, 0.0) for client_id in reports["client_id"].tolist()]
        fresh["last_round"], fresh["num_rounds"] = round_number, 1
        places, is_known = self.find(fresh["client_id"])
        fresh["num_rounds"][is_known] += self.seen["num_rounds"][places[is_known]]
        self.seen[places[is_known]] = fresh[is_known]
        self.seen = np.insert(self.seen, places[~is_known], fresh[~is_known])
        self.utilities.append(float(statistical_utilities(fresh).sum()))

    def find(self, client_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where clients are in `seen`, or would be, and whether they are there."""
        places = np.searchsorted(self.seen["client_id"], client_ids)
        if not len(self.seen):
            return places, np.zeros(len(client_ids), dtype=bool)
        return places, self.seen["client_id"][np.minimum(places, len(self.seen) - 1)] == client_ids

    def of_type(self, model_type: int) -> np.ndarray:
        """Return the records of a model type's clients, in client order."""
        return self.seen[self.seen["model_type"] == model_type]

    def losses_of(self, client_ids: np.ndarray, *, unknown: float) -> np.ndarray:
        """Return the last known losses of clients, float64."""
        places, is_known = self.find(client_ids)
        losses = np.full(len(client_ids), unknown)
        losses[is_known] = self.seen["loss"][places[is_known]]
        return losses

    def state(self) -> dict[str, np.ndarray]:
        """Return what `restore` needs, as arrays; copies."""
        return {**columns_of(self.seen), "utilities": np.array(self.utilities, dtype=np.float64)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what `state` returned; {} = nothing.

        Raises:
            ValueError, KeyError, TypeError: If it is something else.
        """
        if not state:
            return
        seen, utilities = of_columns(state, RECORD), state["utilities"].tolist()
        if (np.diff(seen["client_id"]) <= 0).any() or (seen["last_round"] < 1).any() or np.ndim(utilities) != 1:
            raise ValueError("clients out of order, or rounds that never were")
        self.seen, self.utilities = seen, utilities


def columns_of(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return a structured array's fields as arrays of their own; copies."""
    return {name: np.ascontiguousarray(rows[name]) for name in rows.dtype.names or ()}


def of_columns(columns: Mapping[str, np.ndarray], dtype: np.dtype) -> np.ndarray:
    """Return what `columns_of` took apart; ValueError or KeyError if columns are missing or of different lengths."""
    names = dtype.names or ()
    rows = np.empty(columns[names[0]].shape, dtype=dtype)
    for name in names:
        if columns[name].shape != rows.shape or rows.ndim != 1:
            raise ValueError(f"{name} has the shape {columns[name].shape}")
        rows[name] = columns[name]
    return rows


def statistical_utilities(records: np.ndarray) -> np.ndarray:
    """Return Oort's statistical utility of clients: rows * sqrt(mean squared loss), float64."""
    return records["num_rows"] * np.sqrt(records["square"])
