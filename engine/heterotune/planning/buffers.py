"""Sums, messages and rows on the host: our derivation from `aggregation/exact.py`, `server.py`, `downlink.py`."""

from __future__ import annotations

from collections.abc import Sequence

from heterotune.planning.setting import Setting
from heterotune.planning.shapes import TypeShape

FP32, INT64, FLOAT64 = 4, 8, 8
_MOMENTS = {"fedavgm": 1, "fedadagrad": 2, "fedadam": 2, "fedyogi": 2}
_ARRAYS_OF_ROWS = 2  # input ids and targets


def sums_bytes(shape: TypeShape) -> int:
    """Return the bytes of a model type's exact sum: int64 for every element that travels, and two counters."""
    return INT64 * (shape.layout.num_travelling + 2)


def update_bytes(shape: TypeShape) -> int:
    """Return what combining a model type's update needs: the change and the new values; means are where sums were."""
    return (FLOAT64 + FP32) * shape.layout.num_travelling


def server_state_bytes(setting: Setting) -> int:
    """Return what the root keeps between rounds for a method's optimiser: so many moments of all that travels."""
    return FLOAT64 * _MOMENTS.get(setting.config.strategy, 0) * common_elements(setting.shapes)


def common_elements(shapes: Sequence[TypeShape]) -> int:
    """Return the elements of all common values; tensors that types share count once."""
    specs = {spec.key: spec for shape in shapes for spec in shape.layout.travelling}
    return sum(spec.num_elements for spec in specs.values())


def broadcast_bytes(shapes: Sequence[TypeShape]) -> int:
    """Return what a broadcast needs beside what is kept: the new messages, and the values read from them."""
    return FP32 * (sum(shape.layout.num_travelling for shape in shapes) + common_elements(shapes))


def kept_bytes(setting: Setting) -> int:
    """Return what every rank keeps: common values, the messages that carried them, frozen messages, its sums.

    Where every rank combines a slice: the sums once more, in the order of slices, and a row of all values.
    """
    shapes = setting.shapes
    frozen = sum(FP32 * sum(shape.frame_elements) for shape in shapes)
    messages = sum(FP32 * shape.layout.num_travelling for shape in shapes)
    sums, values = sum(sums_bytes(shape) for shape in shapes), FP32 * common_elements(shapes)
    again = sums + values if setting.config.collective.topology == "sharded" else 0
    return values + messages + frozen + sums + again


def data_bytes(setting: Setting) -> int:
    """Return the bytes of all clients' rows, held-out rows, and two prepared chunks; rows are taken for full."""
    config = setting.config
    num_rows = setting.num_table_rows + config.evaluate.max_rows
    if any(shape.layout.head is not None for shape in setting.shapes):
        options = config.heterotune
        tokens_per_row = 1 if options.align_positions == "answer" else config.data.max_tokens
        num_rows += -(-options.align_tokens // tokens_per_row)
    chunk_clients = config.chunk.max_clients if config.chunk.clients == "auto" else config.chunk.clients
    num_rows += 2 * setting.steps * config.local.batch_size * chunk_clients
    return _ARRAYS_OF_ROWS * INT64 * num_rows * config.data.max_tokens
