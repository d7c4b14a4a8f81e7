"""How long a client takes in a round and what that costs it, from what it did and the device it has."""

from __future__ import annotations

from dataclasses import dataclass

from heterotune.fleet.devices import Device


@dataclass(frozen=True)
class ClientWork:
    """What a client did, or does until it drops out: measured, never assumed.

    Attributes:
        down_bytes: Of all messages that it downloaded.
        flops: Of the steps that it makes.
        up_bytes: Of all messages that it sends; None = it drops out after these steps and sends nothing.
    """

    down_bytes: int
    flops: float
    up_bytes: int | None


@dataclass(frozen=True)
class ClientTime:
    """What a client's part in a round takes.

    Attributes:
        download_seconds: Latency, and the bytes down.
        compute_seconds: Its steps.
        upload_seconds: The bytes up.
        is_lost: Whether the client drops out instead of sending its update.
        energy_joules: What its device spends on these seconds.
    """

    download_seconds: float
    compute_seconds: float
    upload_seconds: float
    is_lost: bool
    energy_joules: float

    @property
    def seconds(self) -> float:
        """From the start of the download to the last byte up, or until the client drops out."""
        return self.download_seconds + self.compute_seconds + self.upload_seconds


def client_time(device: Device, work: ClientWork, *, most_seconds: float = float("inf")) -> ClientTime:
    """Return what a client's work takes: latency + bytes down / rate + operations / rate + bytes up / rate.

    Args:
        device: The client's.
        work: What it does.
        most_seconds: When the client becomes unavailable, from the start of its download; it then drops out.
    """
    parts = (
        device.latency_seconds + work.down_bytes / device.down_bytes_per_second,
        work.flops / device.flops_per_second,
        0.0 if work.up_bytes is None else work.up_bytes / device.up_bytes_per_second,
    )
    is_lost = work.up_bytes is None
    most_seconds = min(most_seconds, _battery_seconds(device, parts))
    if sum(parts) > most_seconds:
        parts, is_lost = _cut(parts, most_seconds), True
    down, compute, up = parts
    return ClientTime(down, compute, up, is_lost, _energy_joules(device, parts))


def joules_after(device: Device, time: ClientTime, seconds: float) -> float:
    """Return what a client's device has spent so many seconds after the start of its download."""
    return _energy_joules(device, _cut((time.download_seconds, time.compute_seconds, time.upload_seconds), seconds))


def _energy_joules(device: Device, parts: tuple[float, float, float]) -> float:
    down, compute, up = parts
    return device.energy_joules(compute_seconds=compute, radio_seconds=down + up)


def _battery_seconds(device: Device, parts: tuple[float, float, float]) -> float:
    """Return after how many seconds the battery is empty; infinite if it lasts."""
    if device.battery_joules is None or _energy_joules(device, parts) <= device.battery_joules:
        return float("inf")
    seconds, left = 0.0, device.battery_joules
    for part, watts in zip(parts, (device.radio_watts, device.compute_watts, device.radio_watts), strict=True):
        if part * watts > left:
            return seconds + left / watts
        seconds, left = seconds + part, left - part * watts
    return seconds  # rounding: the last part was to empty it


def _cut(parts: tuple[float, float, float], most_seconds: float) -> tuple[float, float, float]:
    """Return the parts as far as they fit into a time."""
    fitting = []
    for part in parts:
        fitting.append(min(part, max(0.0, most_seconds - sum(fitting))))
    return fitting[0], fitting[1], fitting[2]
