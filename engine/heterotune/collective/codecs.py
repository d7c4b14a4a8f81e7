"""The number formats of the wire: a table of how each writes float32 numbers and reads them again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from heterotune.collective import bf16, int8_blocks, topk
from heterotune.errors import WireError


@dataclass(frozen=True)
class Codec:
    """One way to write float32 numbers. Adding one is adding a row to `CODECS`."""

    number: int
    name: str
    payload_bytes: Callable[[int, memoryview], int]
    """Elements and payload to the bytes that the payload should have: checked before anything is allocated."""
    write: Callable[[np.ndarray, np.random.Generator | None, float | None], bytes | memoryview]
    """Numbers, generator and share of elements to a payload; most formats need neither of the last two."""
    read: Callable[[memoryview, int], np.ndarray]
    """Payload of the right length and number of elements to a new float32 array."""
    is_lossless: bool = False
    """Every bit pattern arrives unchanged."""
    is_sparse: bool = False
    """A short payload may stand for many elements, so the reader must know how many it expects."""
    rounds_at_random: bool = False
    """It needs a generator."""
    has_blocks: bool = False
    """An element's error depends on its neighbours in the message."""
    keeps_residual: bool = False
    """The sender adds what it could not send to its next update."""

    def planned_bytes(self, num_elements: int, topk_share: float | None) -> int:
        """Return the length of a payload before it is written."""
        if self.is_sparse:
            assert topk_share is not None, "how much a sparse format sends depends on the share"
            return topk.planned_bytes(num_elements, topk_share)
        return self.payload_bytes(num_elements, memoryview(b""))


def _write_int8(values: np.ndarray, draw: np.random.Generator | None, share: float | None) -> bytes:
    assert draw is not None, "int8 rounds at random and needs a generator"
    return int8_blocks.write(values, draw)


def _write_topk(values: np.ndarray, draw: np.random.Generator | None, share: float | None) -> bytes:
    assert share is not None, "topk must be told the share of elements to send"
    return topk.write(values, share)


CODECS = (
    Codec(
        number=1,
        name="fp32",
        payload_bytes=lambda num_elements, payload: 4 * num_elements,
        write=lambda values, draw, share: memoryview(np.ascontiguousarray(values, "<f4")).cast("B"),
        read=lambda payload, num_elements: np.frombuffer(payload, "<f4").astype(np.float32),
        is_lossless=True,
    ),
    Codec(
        number=2,
        name="bf16",
        payload_bytes=lambda num_elements, payload: 2 * num_elements,
        write=lambda values, draw, share: bf16.write(values),
        read=lambda payload, num_elements: bf16.read(payload),
    ),
    Codec(
        number=3,
        name="int8",
        payload_bytes=lambda num_elements, payload: int8_blocks.payload_bytes(num_elements),
        write=_write_int8,
        read=int8_blocks.read,
        rounds_at_random=True,
        has_blocks=True,
    ),
    Codec(
        number=4,
        name="topk",
        payload_bytes=lambda num_elements, payload: topk.payload_bytes(payload),
        write=_write_topk,
        read=topk.read,
        is_sparse=True,
        keeps_residual=True,
    ),
)


def codec_named(name: str) -> Codec:
    """Return the codec of a name.

    Raises:
        WireError: If there is none.
    """
    return _find("name", name)


def codec_numbered(number: int) -> Codec:
    """Return the codec of a number, as a message's header has it.

    Raises:
        WireError: If there is none.
    """
    return _find("number", number)


def _find(field: str, value: object) -> Codec:
    """Return the codec whose `field` is `value`."""
    for codec in CODECS:
        if getattr(codec, field) == value:
            return codec
    raise WireError(f"no wire codec has the {field} {value!r}; there are {', '.join(codec.name for codec in CODECS)}")
