"""Section `devices` of a run file: what hardware the simulated clients have."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from heterotune.config.field_types import LARGEST_LIST, Flag, Name, NotNegative, Number, Positive, Section

DeviceDtype = Literal["fp32", "bf16", "fp16", "nf4"]
Hour = Annotated[Number, Field(ge=0, le=24)]
_SHARES_MAY_MISS = 1e-6
"""0.1 + 0.2 + 0.7 is not 1 to the last bit."""


Spread = Annotated[NotNegative, Field(le=5)]
"""A standard deviation of 5 makes one client of six more than 148 times as fast as the median."""

LARGEST = {
    "flops_per_second": 1e21,
    "memory_gib": 1e6,
    "down_mbit_per_second": 1e9,
    "up_mbit_per_second": 1e9,
    "latency_seconds": 1e6,
    "compute_watts": 1e9,
    "radio_watts": 1e9,
    "idle_watts": 1e9,
    "battery_wh": 1e9,
}
"""Figures of a profile or of a trace -> what no device has more of; beyond it bytes and seconds leave their numbers."""


class DeviceProfile(Section):
    """One class of devices."""

    flops_per_second: Annotated[Positive, Field(le=LARGEST["flops_per_second"])]
    """Operations per second that training reaches on it, above 0, at most 10^21: measured, or a share of the vendor's
    peak."""
    memory_gib: Annotated[Positive, Field(le=LARGEST["memory_gib"])]
    """Memory that training may use, GiB, above 0, at most 10^6."""
    down_mbit_per_second: Annotated[Positive, Field(le=LARGEST["down_mbit_per_second"])]
    """What it receives, 10^6 bit/s, above 0, at most 10^9."""
    up_mbit_per_second: Annotated[Positive, Field(le=LARGEST["up_mbit_per_second"])]
    """What it sends, 10^6 bit/s, above 0, at most 10^9."""
    latency_seconds: Annotated[NotNegative, Field(le=LARGEST["latency_seconds"])] = 0.0
    """Seconds before a round's first byte arrives, 0 to 10^6."""
    compute_watts: Annotated[NotNegative, Field(le=LARGEST["compute_watts"])] = 0.0
    """Power while it trains, 0 to 10^9; 0 = energy is not counted."""
    radio_watts: Annotated[NotNegative, Field(le=LARGEST["radio_watts"])] = 0.0
    """Power while it receives or sends, 0 to 10^9."""
    idle_watts: Annotated[NotNegative, Field(le=LARGEST["idle_watts"])] = 0.0
    """Power while it waits in a round, 0 to 10^9."""
    battery_wh: Annotated[Positive, Field(le=LARGEST["battery_wh"])] | None = None
    """Watt-hours that one round may take, above 0, at most 10^9: a full battery; null = mains."""
    available_hours: Annotated[tuple[tuple[Hour, Hour], ...], Field(max_length=24)] = ()
    """Windows of a day in which it takes part, as [from, to] in hours, 0 to 24; [22, 6] goes over midnight; empty =
    always."""
    dtype: DeviceDtype = "bf16"
    """Type in which it holds a backbone's weights; nf4 = 4 bits in the layers' linears."""

    @field_validator("available_hours")
    @classmethod
    def _check_hours(cls, windows: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        """A window has a length."""
        if any(begin == end for begin, end in windows):
            raise ValueError("has a window that ends as it begins. Give [0, 24] for all day, or leave the key out.")
        return windows


class DeviceAssignment(Section):
    """Which devices the clients of one model type have: PROFILE, {PROFILE: share, ...}, or these keys."""

    profile: Name | None = None
    """Every client's profile; or `mixture`."""
    mixture: Annotated[dict[Name, Positive], Field(max_length=LARGEST_LIST)] | None = None
    """Profile -> probability that a client has it, above 0, 1 in all; drawn for each client from the run's seed."""
    flops_spread: Spread = 0.0
    """Standard deviation of the logarithm of a client's own factor on FLOP/s, whose median is 1; 0 to 5."""
    bandwidth_spread: Spread = 0.0
    """The same for a factor on its bandwidth in both directions."""

    @model_validator(mode="after")
    def _check_one(self) -> DeviceAssignment:
        """One way to say which, and shares that are shares."""
        if (self.profile is None) == (self.mixture is None):
            raise ValueError("needs either profile or mixture. Give one of the two.")
        if self.mixture is not None and abs(math.fsum(self.mixture.values()) - 1) > _SHARES_MAY_MISS:
            total = f"{math.fsum(self.mixture.values()):g}"
            raise ValueError(f"the shares of the mixture add up to {total}, not 1. Correct them.")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """Profile -> probability; 1 in all."""
        return {self.profile: 1.0} if self.profile is not None else dict(self.mixture or {})


def _spelt_out(given: Any) -> Any:
    """Return an assignment with its keys, where only a profile or a mixture was written."""
    if isinstance(given, str):
        return {"profile": given}
    if isinstance(given, dict) and not given.keys() & DeviceAssignment.model_fields.keys():
        return {"mixture": given}
    return given


AnyAssignment = Annotated[
    DeviceAssignment, BeforeValidator(_spelt_out, json_schema_input_type=DeviceAssignment | str | dict[str, float])
]


class DevicesConfig(Section):
    """What hardware the simulated clients have; nothing is said of it by default."""

    file: Path | None = None
    """YAML file of profiles, or devices = the classes that heterotune ships (launch/devices.yaml in its repository);
    null in a run's config.yaml, where they are in `profiles`."""
    profiles: Annotated[dict[Name, DeviceProfile], Field(max_length=LARGEST_LIST)] = {}
    """Name -> profile; one of these goes before one of the same name in `file`."""
    assign: Annotated[dict[Name, AnyAssignment], Field(max_length=LARGEST_LIST)] = {}
    """Model type -> the devices of its clients, for every model type; or `trace`."""
    trace: Path | None = None
    """CSV file with one row a client, in client order; its columns are keys of a profile, see docs/devices.md."""
    trace_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 of the trace, 64 hexadecimal digits; null = written into the run's config.yaml."""
    checkpointing: Flag = False
    """Devices recompute activations in the backward pass: less memory, half as many operations again."""

    @property
    def are_given(self) -> bool:
        """Whether clients have devices in this run."""
        return bool(self.assign) or self.trace is not None

    @model_validator(mode="after")
    def _check_together(self) -> DevicesConfig:
        """Profiles are somebody's, and a client has one device."""
        if self.assign and self.trace is not None:
            raise ValueError("assign and trace both say which devices clients have. Drop one of the two.")
        if (self.profiles or self.file is not None) and not self.are_given:
            raise ValueError("has profiles that no client gets. Add assign or trace, or drop them.")
        if self.trace_sha256 is not None and self.trace is None:
            raise ValueError("trace_sha256 is given without trace. Name the file, or drop it.")
        return self
