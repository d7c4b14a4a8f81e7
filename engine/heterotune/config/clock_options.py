"""Section `clock` of a run file: whose updates a round waits for, in the simulated time of the clients' devices."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from heterotune.config.field_types import Count, NotNegative, Number, Positive, Section

ClockMode = Literal["none", "synchronous", "deadline", "over_selection", "buffered"]


class ClockOptions(Section):
    """A virtual clock: every client takes the seconds that its device needs for its real bytes and operations."""

    mode: ClockMode = "none"
    """No clock; or a round waits for all; or until a deadline; or for the first of more clients than it needs; or the
    server makes a step whenever some updates have come, of however old values (FedBuff)."""
    deadline_seconds: Positive | None = None
    """Longest a round lasts in simulated seconds, above 0; null for every mode but deadline."""
    late: Literal["drop", "accept"] = "drop"
    """What becomes of an update that comes after the deadline: nothing, or it counts in the round in whose time it
    comes, with its weight of staleness."""
    over_select: Annotated[Number, Field(ge=1)] | None = None
    """How many times as many clients over_selection draws as the cohort needs, at least 1, e.g. 1.3; else null."""
    concurrency: Count | None = None
    """Clients that are at work at once under buffered, at least 1, instead of `cohort`; else null."""
    buffer: Count | None = None
    """Updates that make a step of the server under buffered, at least 1 and at most `concurrency`; else null."""
    staleness: Literal["polynomial", "constant"] = "polynomial"
    """Weight of an update that began t server steps ago: (1 + t)^-staleness_exponent, or 1."""
    staleness_exponent: NotNegative = 0.5
    """Exponent of polynomial staleness, at least 0; 0.5 gives FedBuff's 1 / sqrt(1 + t)."""

    @property
    def is_on(self) -> bool:
        """Whether time passes in this run."""
        return self.mode != "none"

    @property
    def takes_stale(self) -> bool:
        """Whether an update may count that was made from older common values than the newest."""
        return self.mode == "buffered" or (self.mode == "deadline" and self.late == "accept")

    def weight_of(self, staleness: int) -> float:
        """Return what an update that began so many server steps ago weighs, 1 for a fresh one."""
        if self.staleness == "constant":
            return 1.0
        if self.staleness_exponent == 0.5:
            return 1.0 / math.sqrt(1 + staleness)  # the same bits on every platform, which a power has not
        return float((1 + staleness) ** -self.staleness_exponent)

    @model_validator(mode="after")
    def _check_mode(self) -> ClockOptions:
        """Every mode has what it needs, and nothing that does nothing."""
        given = {name: getattr(self, name) for name in ("deadline_seconds", "over_select", "concurrency", "buffer")}
        for name, value in given.items():
            if value is None and name in _NEEDED[self.mode]:
                raise ValueError(f"mode = {self.mode} needs {name}. Give it, or choose another mode.")
            if value is not None and name not in _NEEDED[self.mode]:
                fits = next(mode for mode, names in _NEEDED.items() if name in names)
                text = f"{name} = {value:g} does nothing under mode = {self.mode}"
                raise ValueError(f"{text}. Drop it, or choose mode: {fits}.")
        if self.late == "accept" and self.mode != "deadline":
            raise ValueError(f"late = accept does nothing under mode = {self.mode}. Drop it, or choose mode: deadline.")
        if self.buffer is not None and self.concurrency is not None and self.buffer > self.concurrency:
            text = f"buffer = {self.buffer} is more than concurrency = {self.concurrency}, so that it never fills"
            raise ValueError(f"{text}. Lower buffer, or raise concurrency.")
        return self


_NEEDED: dict[ClockMode, tuple[str, ...]] = {
    "none": (),
    "synchronous": (),
    "deadline": ("deadline_seconds",),
    "over_selection": ("over_select",),
    "buffered": ("concurrency", "buffer"),
}
