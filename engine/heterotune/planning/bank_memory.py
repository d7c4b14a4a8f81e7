"""What the adapters of a chunk's clients need: our derivation from `adapters/bank.py` and `training/optimizers.py`."""

from __future__ import annotations

from heterotune.config.method_options import LocalConfig
from heterotune.planning.shapes import TypeShape

FP32 = 4


def bank_bytes(shape: TypeShape, num_clients: int) -> int:
    """Return the bytes of a bank: values, gradients, values at the start (one row unless clients have their own)."""
    rows = 2 * num_clients + (num_clients + 1 if shape.layout.personal else 1)
    return FP32 * shape.layout.num_columns * rows


def moments_bytes(shape: TypeShape, num_clients: int, local: LocalConfig) -> int:
    """Return the bytes of the optimiser's state, and of each column's factor on the learning rate."""
    per_client = {"sgd": 0, "momentum": 1, "adamw": 2}.get(local.optimizer, 1)
    return FP32 * shape.layout.num_columns * (per_client * num_clients + int(_scales_rates(shape)))


def step_bytes(shape: TypeShape, num_clients: int, local: LocalConfig) -> int:
    """Return what a step needs for a moment: of AdamW squares, denominator and quotient; rates where columns differ."""
    copies = 3 if local.optimizer == "adamw" else int(bool(local.weight_decay))
    return FP32 * shape.layout.num_columns * num_clients * (copies + int(_scales_rates(shape)))


def copies_in_pass_bytes(shape: TypeShape, num_clients: int, dtype_bytes: int) -> int:
    """Return copies of the branches that a pass keeps: put side by side, or in the backbone's dtype."""
    elements = shape.branch_elements * num_clients
    side_by_side = FP32 * elements if shape.is_side_by_side else 0
    return side_by_side + (dtype_bytes * elements if dtype_bytes != FP32 else 0)


def _scales_rates(shape: TypeShape) -> bool:
    return len({spec.learning_rate_scale if spec.trains else 0.0 for spec in shape.layout.tensors}) > 1
