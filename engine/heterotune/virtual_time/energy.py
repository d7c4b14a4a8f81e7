"""What devices have spent by a moment of virtual time; one that is still at work, what it did until then."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from heterotune.fleet.clients import Client
from heterotune.fleet.devices import Device
from heterotune.virtual_time.client_time import ClientTime, joules_after

DeviceOf = Callable[[int, int], Device]
"""(client id, place of its model type) -> its device."""


@dataclass(frozen=True)
class _Work:
    """A client's part in a round that was not over at the last look: whether anybody waits for it or not."""

    client_id: int
    model_type: int
    start_seconds: float
    time: ClientTime

    @property
    def end_seconds(self) -> float:
        """When its device is done."""
        return self.start_seconds + self.time.seconds


class Energy:
    """The joules of all devices: those of work that is over in the order in which it began."""

    def __init__(self, device_of: DeviceOf) -> None:
        """Begin with nothing spent."""
        self._device_of = device_of
        self._ended_joules = 0.0
        self._at_work: list[_Work] = []

    def begin(self, client: Client, start_seconds: float, time: ClientTime) -> None:
        """Let a client's device work from now on."""
        self._at_work.append(_Work(client.client_id, client.model_type, start_seconds, time))

    def wait(self, waits: Iterable[tuple[Client, float]]) -> None:
        """Add what clients' devices spend on so many seconds of waiting."""
        self._ended_joules += sum(
            self._device_of(client.client_id, client.model_type).energy_joules(
                compute_seconds=0.0, radio_seconds=0.0, idle_seconds=seconds
            )
            for client, seconds in waits
        )

    def pass_to(self, now_seconds: float) -> None:
        """Add up the work that is over by now."""
        for work in self._at_work:
            if work.end_seconds <= now_seconds:
                self._ended_joules += work.time.energy_joules
        self._at_work = [work for work in self._at_work if work.end_seconds > now_seconds]

    def joules(self, now_seconds: float) -> float:
        """Return what was spent by now, which is no earlier than the last `pass_to`."""
        return self._ended_joules + sum(
            joules_after(self._device_of(work.client_id, work.model_type), work.time, now_seconds - work.start_seconds)
            for work in self._at_work
        )

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as JSON has it."""
        return {"energy_joules": self._ended_joules, "at_work": [asdict(work) for work in self._at_work]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned; where nothing is said of work, all was counted when it began.

        Raises:
            TypeError, KeyError, ValueError: If it is anything else.
        """
        self._ended_joules = float(state.get("energy_joules", 0.0))
        self._at_work = [_Work(**{**saved, "time": ClientTime(**saved["time"])}) for saved in state.get("at_work", ())]
