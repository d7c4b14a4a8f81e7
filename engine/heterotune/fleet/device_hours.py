"""When clients can take part by the hours of their devices: windows of a day, from the profiles that they have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from heterotune.config.availability_options import DAY_SECONDS, HOUR_SECONDS
from heterotune.config.schema import RunConfig
from heterotune.fleet.devices import Devices, make_devices
from heterotune.fleet.model_types import ModelType

Windows = Sequence[tuple[float, float]]
_DAY_HOURS = 24.0


def device_hours(config: RunConfig, model_types: Sequence[ModelType]) -> DeviceHours | None:
    """Return the hours of a run's devices; None if it does not go by them.

    Raises:
        ConfigError: As `make_devices`.
    """
    devices = make_devices(config, model_types) if config.availability.model == "devices" else None
    return None if devices is None else DeviceHours(devices, model_types)


def hours_problems(config: RunConfig) -> list[str]:
    """Return what is wrong with the hours of a run whose profiles are those in use: some that count, or none."""
    named = [name for name, profile in config.devices.profiles.items() if profile.available_hours]
    model = config.availability.model
    if model == "devices" and not named:
        text = "availability.model = devices, and no profile that clients have has available_hours"
        return [f"{text}. Give some to a profile, or set another model."]
    if model != "devices" and named:
        text = f"devices.profiles.{named[0]}.available_hours does nothing under availability.model = {model}"
        return [f"{text}. Set availability.model: devices, or drop it."]
    return []


def hours_left(windows: Windows, hour: float) -> float:
    """Return in how many hours a device stops being available: 0 if it is not, infinite if it always is.

    Args:
        windows: (from, to) in hours of a day; from after to = over midnight; none = always.
        hour: Of the day.
    """
    left = 0.0 if windows else math.inf
    while left < _DAY_HOURS:
        ends = [end if begin < end or hour < end else _DAY_HOURS for begin, end in windows if _holds(begin, end, hour)]
        if not ends:
            return left
        left, hour = left + max(ends) - hour, max(ends) % _DAY_HOURS
    return math.inf


def _holds(begin: float, end: float, hour: float) -> bool:
    """Return whether a window holds an hour; its end does not belong to it."""
    return begin <= hour < end if begin < end else hour >= begin or hour < end


class DeviceHours:
    """Who can take part when, as `fleet.availability.Availability`; second 0 of a run is midnight."""

    period_seconds = DAY_SECONDS

    def __init__(self, devices: Devices, model_types: Sequence[ModelType]) -> None:
        """Hold on to the devices; a byte is kept per client where profiles of a model type differ in their hours.

        Args:
            devices: Of all clients.
            model_types: The fleet; clients are numbered in its order.
        """
        self._devices = devices
        self._bounds = list(accumulate((model_type.num_clients for model_type in model_types), initial=0))
        self._places: dict[int, np.ndarray] = {}

    def at(self, client_ids: np.ndarray, seconds: float) -> np.ndarray:
        """Return whether clients are available at a simulated time; bool, in the order of their ids."""
        return self._hours_left(client_ids, seconds) > 0.0

    def until(self, client_ids: np.ndarray, seconds: float) -> np.ndarray:
        """Return when clients that are available stop being so; float64, infinite = never."""
        return seconds + self._hours_left(client_ids, seconds) * HOUR_SECONDS

    def _hours_left(self, client_ids: np.ndarray, seconds: float) -> np.ndarray:
        """Return for each client what `hours_left` says of its device: once for each profile."""
        hour = seconds % DAY_SECONDS / HOUR_SECONDS
        types, left = np.searchsorted(self._bounds, client_ids, side="right") - 1, np.empty(len(client_ids))
        for model_type in np.unique(types).tolist():
            is_mine = types == model_type
            profiles = self._devices.profiles(model_type)
            of_profiles = np.array([hours_left(each.available_hours, hour) for each in profiles])
            if (of_profiles == of_profiles[0]).all():
                left[is_mine] = of_profiles[0]
            else:
                places = self._places_of(model_type)
                left[is_mine] = of_profiles[places[client_ids[is_mine] - self._bounds[model_type]]]
        return left

    def _places_of(self, model_type: int) -> np.ndarray:
        """Return the places of the profiles of a model type's clients, drawn once: a look may go through them all."""
        if model_type not in self._places:
            first, end = self._bounds[model_type : model_type + 2]
            places = self._devices.places(np.arange(first, end), model_type)
            self._places[model_type] = places.astype(np.min_scalar_type(len(self._devices.profiles(model_type)) - 1))
        return self._places[model_type]
