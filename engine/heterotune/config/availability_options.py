"""Section `availability` of a run file: when clients can take part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from heterotune.config.field_types import LARGEST_LIST, Number, Positive, Section, Share

DAY_SECONDS = 86_400.0
HOUR_SECONDS = 3_600.0
LOOKS_IN_A_PERIOD = 96
"""Under `auto` the server looks every quarter of an hour of a day."""


class AvailabilityOptions(Section):
    """When clients can take part, in the run's simulated time; the same every period."""

    model: Literal["always", "diurnal", "trace", "devices"] = "always"
    """Everybody at any time; each client for one stretch of every day, drawn from the seed; windows from a file; or the
    hours of the clients' devices (`available_hours` of their profiles; second 0 is midnight)."""
    period_seconds: Positive | None = None
    """Simulated seconds after which availability repeats, above 0; null = a day, under trace the last end in it."""
    share: Annotated[Share, Field(lt=1)] = 0.4
    """Share of the period that a client is available under diurnal, above 0 and below 1."""
    start_spread: Annotated[Number, Field(ge=0, le=1)] = 0.5
    """Share of the period over which the clients' starts are spread under diurnal, 0 = all at once, to 1 = evenly."""
    time_zones: Annotated[
        tuple[Annotated[Number, Field(ge=-14, le=14)], ...], Field(min_length=1, max_length=LARGEST_LIST)
    ] = (0.0,)
    """Hours by which clients are ahead of the run's clock under diurnal, -14 to 14; each client draws one."""
    trace: Path | None = None
    """File of model = trace, .csv or .jsonl, with `client` or `class`, `start_seconds` and `end_seconds` per window."""
    trace_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 of the trace, 64 hexadecimal digits; null = written into the run's config.yaml."""
    round_seconds: Positive = 600.0
    """Simulated seconds of a round where nothing else gives a round a length, above 0."""
    check_seconds: Positive | Literal["auto"] = "auto"
    """Simulated seconds between two looks while too few are available, from each period's start, above 0; "auto" = a
    96th of the period."""

    @property
    def is_limited(self) -> bool:
        """True if a client can be unavailable."""
        return self.model != "always"

    @model_validator(mode="after")
    def _check_trace(self) -> AvailabilityOptions:
        """A trace and its model belong together."""
        if (self.model == "trace") != (self.trace is not None):
            text = f"model = {self.model} and trace = {self.trace or 'null'} do not fit"
            raise ValueError(f"{text}. Give both a file and model: trace, or neither.")
        if self.trace_sha256 is not None and self.trace is None:
            raise ValueError("trace_sha256 is given without trace. Name the file, or drop it.")
        return self

    @model_validator(mode="after")
    def _check_day(self) -> AvailabilityOptions:
        """Hours are hours of a day."""
        if self.model == "devices" and self.period_seconds is not None:
            text = (
                f"period_seconds = {self.period_seconds:g} does nothing under model = devices, which repeats every day"
            )
            raise ValueError(f"{text}. Drop it.")
        return self

    @model_validator(mode="after")
    def _check_looks(self) -> AvailabilityOptions:
        """A wait is a number of looks that somebody has to pay for."""
        if self.check_seconds != "auto" and (self.period_seconds or DAY_SECONDS) / self.check_seconds > 100_000:
            text = f"check_seconds = {self.check_seconds:g} looks more than 100000 times in a period"
            raise ValueError(f"{text}. Raise it, or leave it at auto.")
        return self
