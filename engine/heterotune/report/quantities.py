"""Numbers as people read them; only reports use these, code counts bytes."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024.0
_ENERGY_UNITS = ("J", "kJ", "MJ", "GJ", "TJ")
_HOUR, _DAY = 3600, 86400
_TIME_UNITS = ((1.0, "s"), (60.0, "min"), (float(_HOUR), "h"), (float(_DAY), "days"))


def format_bytes(num_bytes: float) -> str:
    """Return a byte count with three digits and a binary unit, e.g. `13.4 KiB`."""
    scale, unit = bytes_unit(num_bytes)
    value = num_bytes / scale
    if unit == _UNITS[0]:
        return f"{value:.0f} B"
    decimals = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{decimals}f} {unit}"


def bytes_unit(num_bytes: float) -> tuple[float, str]:
    """Return the unit in which a byte count is at least 1, and its bytes."""
    scale, place = 1.0, 0
    while num_bytes / scale >= _STEP and place < len(_UNITS) - 1:
        scale, place = scale * _STEP, place + 1
    return scale, _UNITS[place]


def format_share(part: float, whole: float) -> str:
    """Return a share in percent with two significant digits, e.g. `0.53 %`; a dash if there is no whole."""
    if whole <= 0:
        return "-"
    return f"{100.0 * part / whole:.2g} %"


def format_seconds(seconds: float) -> str:
    """Return a duration, e.g. `42.0 s`, `3 min 05 s`, `5 h 07 min` or `12.3 days`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < _HOUR:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    if seconds < 2 * _DAY:
        return f"{int(seconds) // _HOUR} h {int(seconds) % _HOUR // 60:02d} min"
    return f"{seconds / _DAY:.1f} days"


def time_unit(seconds: float) -> tuple[float, str]:
    """Return the unit in which a duration is at least 2, and its seconds."""
    return next((unit for unit in reversed(_TIME_UNITS) if seconds >= 2 * unit[0]), _TIME_UNITS[0])


def format_energy(joules: float) -> str:
    """Return an energy with three digits, e.g. `13.4 kJ`."""
    scale, unit = energy_unit(joules)
    return f"{joules / scale:.3g} {unit}"


def energy_unit(joules: float) -> tuple[float, str]:
    """Return the unit in which an energy is at least 1, and its joules."""
    place = 0
    while joules / 1e3**place >= 1e3 and place < len(_ENERGY_UNITS) - 1:
        place += 1
    return 1e3**place, _ENERGY_UNITS[place]


def format_number(value: float | None, decimals: int = 3) -> str:
    """Return a number; a dash for one that is not there (null in JSON stands for NaN)."""
    return "-" if value is None else f"{value:.{decimals}f}"
