"""The simulated hardware of clients: each client's device follows from the run's seed and the client's number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from heterotune.config.device_file import with_profiles
from heterotune.config.device_options import DeviceAssignment, DeviceDtype, DeviceProfile, DevicesConfig
from heterotune.config.schema import RunConfig
from heterotune.fleet.device_trace import DeviceTrace, read_trace
from heterotune.fleet.model_types import ModelType
from heterotune.randomness import NO_ROUND, first_draws, generator

BYTES_PER_MBIT = 1e6 / 8
GIB = 1 << 30
JOULES_PER_WH = 3600.0
_DRAW = "device"


@dataclass(frozen=True, slots=True)
class Device:
    """One client's hardware.

    Attributes:
        name: Its profile.
        flops_per_second: What training reaches.
        memory_bytes: What training may use.
        down_bytes_per_second: What it receives.
        up_bytes_per_second: What it sends.
        latency_seconds: Before a round's first byte arrives.
        compute_watts: Power while it trains.
        radio_watts: Power while it receives or sends.
        idle_watts: Power while it waits in a round.
        battery_joules: What one round may take; None = mains.
        available_hours: Windows of a day, (from, to) in hours; empty = always.
        dtype: In which it holds a backbone's weights.
    """

    name: str
    flops_per_second: float
    memory_bytes: int
    down_bytes_per_second: float
    up_bytes_per_second: float
    latency_seconds: float = 0.0
    compute_watts: float = 0.0
    radio_watts: float = 0.0
    idle_watts: float = 0.0
    battery_joules: float | None = None
    available_hours: tuple[tuple[float, float], ...] = ()
    dtype: DeviceDtype = "bf16"

    def energy_joules(self, *, compute_seconds: float, radio_seconds: float, idle_seconds: float = 0.0) -> float:
        """Return the energy of so many seconds of training, of receiving and sending, and of waiting."""
        busy = self.compute_watts * compute_seconds + self.radio_watts * radio_seconds
        return busy + self.idle_watts * idle_seconds


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The devices of one model type's clients: the profiles, the upper ends of their shares of [0, 1), the spreads."""

    profiles: tuple[Device, ...]
    ends: tuple[float, ...]
    flops_spread: float
    bandwidth_spread: float

    def of(self, run_seed: int, client_id: int) -> Device:
        """Draw one client's device."""
        if len(self.profiles) == 1 and not (self.flops_spread or self.bandwidth_spread):
            return self.profiles[0]
        draw = generator(run_seed, NO_ROUND, client_id, _DRAW)
        place = int(self.places_of(draw.random()))
        flops_normal, bandwidth_normal = draw.standard_normal(2)
        return _scaled(
            self.profiles[place],
            math.exp(self.flops_spread * flops_normal),
            math.exp(self.bandwidth_spread * bandwidth_normal),
        )

    def places_of(self, shares: float | np.ndarray) -> np.ndarray:
        """Return the places of the profiles to which numbers from 0 to 1 belong; rounding leaves the last some more."""
        return np.minimum(np.searchsorted(self.ends, shares, side="right"), len(self.ends) - 1)


class Devices:
    """Every client's device, made when it is asked for: nothing is kept per client, but for the arrays of a trace."""

    def __init__(self, run_seed: int, source: Mapping[int, _Drawn] | DeviceTrace) -> None:
        """Make them.

        Args:
            run_seed: The run's seed.
            source: What is drawn for each model type, or every client's row.
        """
        self._run_seed, self._source = run_seed, source

    def of(self, client_id: int, model_type: int) -> Device:
        """Return a client's device: O(1), the same whenever, wherever and in whatever order it is asked for.

        Args:
            client_id: The client.
            model_type: Index of its model type.
        """
        if isinstance(self._source, DeviceTrace):
            return _device(*self._source.row(client_id))
        return self._source[model_type].of(self._run_seed, client_id)

    @property
    def have_batteries(self) -> bool:
        """Whether some client's device has, or may draw, a battery that gets empty."""
        if isinstance(self._source, DeviceTrace):
            if "battery_wh" in self._source.columns:
                return not np.isnan(self._source.columns["battery_wh"]).all()
            return any(profile.battery_wh is not None for _, profile in self._source.profiles)
        return any(each.battery_joules is not None for drawn in self._source.values() for each in drawn.profiles)

    @property
    def names(self) -> frozenset[str]:
        """The profiles that clients have or may draw."""
        if isinstance(self._source, DeviceTrace):
            return frozenset(name for name, _ in self._source.profiles)
        return frozenset(each.name for drawn in self._source.values() for each in drawn.profiles)

    def profiles(self, model_type: int) -> tuple[Device, ...]:
        """Return the profiles that a model type's clients have or may draw, without what is a client's own."""
        if isinstance(self._source, DeviceTrace):
            return tuple(_device(name, profile) for name, profile in self._source.profiles)
        return self._source[model_type].profiles

    def places(self, client_ids: np.ndarray, model_type: int) -> np.ndarray:
        """Return the place of each client's profile in `profiles`; the clients are of one model type."""
        if isinstance(self._source, DeviceTrace):
            return self._source.places[client_ids]
        drawn = self._source[model_type]
        if len(drawn.profiles) == 1:
            return np.zeros(len(client_ids), dtype=np.int64)
        return drawn.places_of(first_draws(self._run_seed, NO_ROUND, client_ids, _DRAW))

    def smallest(self, model_type: int, clients: range) -> dict[DeviceDtype, Device]:
        """Return, for each dtype, the device with the least memory that one of these clients has or may draw.

        Args:
            model_type: Index of their model type.
            clients: Their numbers.
        """
        if isinstance(self._source, DeviceTrace):
            devices = [self.of(client_id, model_type) for client_id in self._source.least_memory(clients)]
        else:
            devices = list(self._source[model_type].profiles)
        largest_first = sorted(devices, key=lambda device: -device.memory_bytes)
        return {device.dtype: device for device in largest_first}  # the last one of a dtype stays


def make_devices(config: RunConfig, model_types: Sequence[ModelType]) -> Devices | None:
    """Return the devices of a run's clients, None if it says nothing of devices.

    Raises:
        ConfigError: If a file is missing or wrong, or a profile that is assigned is nowhere.
    """
    if not config.devices.are_given:
        return None
    section = with_profiles(config.devices)
    if section.trace is not None:
        return Devices(config.seed, read_trace(section, config.num_clients))
    profiles = {name: _device(name, profile) for name, profile in section.profiles.items()}
    drawn = {each.index: _drawn(section.assign[each.name], profiles) for each in model_types}
    return Devices(config.seed, drawn)


def with_used_profiles(section: DevicesConfig, devices: Devices) -> DevicesConfig:
    """Return the section with the profiles that clients have or may draw, and without the file that some came from.

    Raises:
        ConfigError: As `make_devices`, which made the devices of this section.
    """
    section = with_profiles(section)
    used = {name: profile for name, profile in section.profiles.items() if name in devices.names}
    return section.model_copy(update={"profiles": used})


def _drawn(assigned: DeviceAssignment, profiles: Mapping[str, Device]) -> _Drawn:
    """Return what one model type's devices are drawn from."""
    chosen = tuple(profiles[name] for name in assigned.shares)
    ends = tuple(accumulate(assigned.shares.values()))
    return _Drawn(chosen, ends, assigned.flops_spread, assigned.bandwidth_spread)


def _scaled(device: Device, flops_factor: float, bandwidth_factor: float) -> Device:
    """Return a device that is as many times as fast."""
    return replace(
        device,
        flops_per_second=device.flops_per_second * flops_factor,
        down_bytes_per_second=device.down_bytes_per_second * bandwidth_factor,
        up_bytes_per_second=device.up_bytes_per_second * bandwidth_factor,
    )


def _device(name: str, profile: DeviceProfile) -> Device:
    """Return a profile in the engine's units."""
    return Device(
        name=name,
        flops_per_second=profile.flops_per_second,
        memory_bytes=round(profile.memory_gib * GIB),
        down_bytes_per_second=profile.down_mbit_per_second * BYTES_PER_MBIT,
        up_bytes_per_second=profile.up_mbit_per_second * BYTES_PER_MBIT,
        latency_seconds=profile.latency_seconds,
        compute_watts=profile.compute_watts,
        radio_watts=profile.radio_watts,
        idle_watts=profile.idle_watts,
        battery_joules=None if profile.battery_wh is None else profile.battery_wh * JOULES_PER_WH,
        available_hours=profile.available_hours,
        dtype=profile.dtype,
    )
