"""What one training pass computes, and how long a rank takes for that alone. Our derivation.

A training pass through a frozen backbone computes the forward pass and the gradient of its inputs, not of its weights:
4 operations per weight and token, 6 with checkpointing; adapters cost 6 per weight and token. A layer takes some time
however little there is to compute: small models wait for Python and for starting kernels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heterotune.planning.shapes import TypeShape

if TYPE_CHECKING:
    from heterotune.planning.setting import Setting


def pass_flops(shape: TypeShape, num_clients: int, setting: Setting) -> float:
    """Return the operations of one training pass of a chunk."""
    tokens = num_clients * setting.tokens_per_client
    length = setting.config.data.max_tokens
    weights = shape.num_layers * shape.layer_elements + shape.embedding_elements
    attention = 2 * shape.num_layers * shape.query_width * length  # causal: half of the positions, scores and mix
    per_weight, per_score = (6, 4) if setting.config.backbone.checkpointing else (4, 3)
    return tokens * (per_weight * weights + per_score * attention + 6 * shape.branch_elements)


def compute_seconds(shape: TypeShape, num_clients: int, setting: Setting) -> float:
    """Return the seconds of one training pass of a chunk, if its weights are there."""
    speed = setting.cluster.flops or setting.calibration.flops
    overhead = shape.num_layers * setting.calibration.layer_seconds
    return overhead + pass_flops(shape, num_clients, setting) / speed
