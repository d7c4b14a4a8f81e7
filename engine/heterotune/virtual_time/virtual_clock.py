"""The virtual clock's state: what time it is, what all clients have spent, and who is on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from heterotune.aggregation.quarantine import Verdict
from heterotune.config.clock_options import ClockOptions
from heterotune.errors import CheckpointError
from heterotune.fleet.clients import Client
from heterotune.fleet.devices import Device
from heterotune.virtual_time.arrivals import Flight, Taken, take
from heterotune.virtual_time.client_time import ClientTime, ClientWork, client_time
from heterotune.virtual_time.energy import DeviceOf, Energy

LeavesAfter = Callable[[int, float], float]
"""(client id, virtual seconds of its dispatch) -> after how many seconds it becomes unavailable; may be infinite."""


@dataclass(frozen=True)
class Report:
    """What is known of a client of the cohort when all have trained.

    Attributes:
        client: Who.
        work: What it did.
        verdict: Whether its update counts if it arrives.
    """

    client: Client
    work: ClientWork
    verdict: Verdict


class VirtualClock:
    """The same on every rank, from the same reports; it never looks at a real clock.

    Attributes:
        seconds: Virtual time, from the start of the run.
        in_flight: Clients on their way, by time.
    """

    def __init__(
        self,
        options: ClockOptions,
        device_of: DeviceOf,
        leaves_after: LeavesAfter | None = None,
        *,
        batteries: bool = False,
    ) -> None:
        """Begin at 0 with nobody on the way.

        Args:
            options: The mode.
            device_of: Every client's device.
            leaves_after: When clients become unavailable; None = never.
            batteries: Whether a device may have one that gets empty.
        """
        self.options, self._device_of, self._leaves_after = options, device_of, leaves_after
        self._may_lose = batteries or leaves_after is not None
        self.seconds, self._energy = 0.0, Energy(device_of)
        self.in_flight: tuple[Flight, ...] = ()
        self._timeline: list[dict[str, Any]] = []

    @property
    def energy_joules(self) -> float:
        """What all devices have spent until now on downloads, steps, uploads, and on waiting for a round's end."""
        return self._energy.joules(self.seconds)

    @property
    def holds(self) -> bool:
        """Whether a client that trained may not count in its round, so that sums wait until it is known who does."""
        return self.options.mode != "synchronous" or self._may_lose

    def advance(self, reports: Sequence[Report], *, round_number: int, wanted: Mapping[int, int]) -> Taken:
        """Let a round pass: its cohort's flights begin, and time goes on to the round's end.

        Args:
            reports: Of the cohort, those that drop out included.
            round_number: The round.
            wanted: Place of a model type -> updates that over_selection waits for.
        """
        begun = [self._flight(report, round_number) for report in reports]
        taken = take((*self.in_flight, *begun), self.options, now_seconds=self.seconds, wanted=wanted)
        self.seconds, self.in_flight = taken.end_seconds, taken.in_flight
        self._energy.pass_to(self.seconds)
        if self.options.mode != "buffered":  # where nobody waits for others
            self._energy.wait((flight.client, self.seconds - flight.end_seconds) for flight in taken.arrived)
        return taken

    def wait_until(self, seconds: float) -> None:
        """Let time pass while nobody is dispatched: no client is available."""
        self.seconds = max(self.seconds, seconds)

    def staleness(self, flight: Flight, round_number: int) -> float:
        """Return what a flight's update weighs in a round beside its rows."""
        return self.options.weight_of(round_number - flight.round_number)

    def take_timeline(self) -> list[dict[str, Any]]:
        """Return what became of the clients that were dispatched since the last call, one line each."""
        lines, self._timeline = self._timeline, []
        return lines

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as JSON has it."""
        flights = [asdict(flight) for flight in self.in_flight]
        return {"seconds": self.seconds, "in_flight": flights, **self._energy.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned; {} = the beginning.

        Raises:
            CheckpointError: If it is anything else: anybody may have written it.
        """
        try:
            self.seconds = float(state.get("seconds", 0.0))
            self._energy.restore(state)
            self.in_flight = tuple(_flight_of(saved) for saved in state.get("in_flight", ()))
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            told = f"the checkpoint's state of the virtual clock cannot be read ({error!r:.200})"
            raise CheckpointError(f"{told}. Remove the newest checkpoint to go on from the one before it.") from error

    def _flight(self, report: Report, round_number: int) -> Flight:
        """Dispatch a client now."""
        client = report.client
        device = self._device_of(client.client_id, client.model_type)
        most_seconds = float("inf")
        if self._leaves_after is not None:
            most_seconds = self._leaves_after(client.client_id, self.seconds)
        time = client_time(device, report.work, most_seconds=most_seconds)
        self._energy.begin(client, self.seconds, time)
        is_cut = time.is_lost and report.work.up_bytes is not None
        verdict = Verdict(client.client_id, "dropped_out") if is_cut else report.verdict
        end_seconds = self.seconds + time.seconds
        self._timeline.append(_line(client, device, time, report.work, round_number, self.seconds, end_seconds))
        return Flight(client, round_number, self.seconds, end_seconds, time.is_lost, verdict)


def clock_metrics(
    clock: VirtualClock, taken: Taken, *, round_number: int, round_seconds: float
) -> list[dict[str, Any]]:
    """Return a round's numbers."""
    metrics: list[dict[str, Any]] = [
        {"name": "clock/seconds", "value": clock.seconds, "unit": "s"},
        {"name": "clock/round_seconds", "value": round_seconds, "unit": "s"},
        {"name": "clock/energy", "value": clock.energy_joules, "unit": "J"},
    ]
    if clock.holds:
        for name, flights in (("arrived", taken.arrived), ("late", taken.late), ("in_flight", taken.in_flight)):
            metrics.append({"name": f"clock/{name}", "value": len(flights), "unit": "clients"})
        metrics.append({"name": "clock/lost", "value": len(taken.lost), "unit": "clients"})
    if clock.options.takes_stale:
        counts = Counter(round_number - flight.round_number for flight in taken.arrived)
        mean = sum(age * count for age, count in counts.items()) / max(1, counts.total())
        metrics.append({"name": "clock/staleness", "value": mean, "unit": "server steps"})
        metrics.append({"name": "clock/staleness_max", "value": max(counts, default=0), "unit": "server steps"})
    return metrics


def _line(
    client: Client,
    device: Device,
    time: ClientTime,
    work: ClientWork,
    round_number: int,
    start_seconds: float,
    end_seconds: float,
) -> dict[str, Any]:
    """Return a line of the timeline."""
    return {
        "round": round_number,
        "client": client.client_id,
        "device": device.name,
        "start_seconds": start_seconds,
        "download_seconds": time.download_seconds,
        "compute_seconds": time.compute_seconds,
        "upload_seconds": time.upload_seconds,
        "end_seconds": end_seconds,
        "down_bytes": work.down_bytes,
        "flops": work.flops,
        "up_bytes": work.up_bytes,
        "energy_joules": time.energy_joules,
        "dropped_out": time.is_lost,
    }


def _flight_of(saved: Mapping[str, Any]) -> Flight:
    """Return a flight as it was saved; checkpoints before 2026-11 have its client's loss, too, which nobody read."""
    fields = {name: value for name, value in saved.items() if name != "loss"}
    return Flight(**{**fields, "client": Client(**saved["client"]), "verdict": Verdict(**saved["verdict"])})
