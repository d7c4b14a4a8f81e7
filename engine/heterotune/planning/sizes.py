"""Sizes as people write them: "80GiB", "512GB", "1.5TiB"."""

from __future__ import annotations

import math
import re

_UNITS = {"": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("KMGTP", start=1)
    for suffix, base in (("iB", 1024), ("B", 1000))
}
_SIZE = re.compile(r"\s*([0-9.]+)\s*([A-Za-z]*)\s*")


def parse_bytes(text: str) -> int | None:
    """Return the bytes that a text means, None if it means none."""
    match = _SIZE.fullmatch(text)
    if match is None or match[2] not in _UNITS:
        return None
    try:
        size = float(match[1]) * _UNITS[match[2]]
    except ValueError:
        return None
    return round(size) if math.isfinite(size) else None
