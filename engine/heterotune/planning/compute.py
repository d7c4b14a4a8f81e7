"""What one training pass computes, and how long a rank takes for that alone. Our derivation.

A training pass through a frozen backbone computes the forward pass and the gradient of its inputs, not of its weights:
4 operations per weight and token, 6 with checkpointing; 2 in layers below the lowest that trains, which have no
backward pass; adapters cost 6 per weight and token. A layer takes some time however little there is to compute: small
models wait for Python and for starting kernels. How much of that the backward pass takes was not measured, so every
layer counts whole.
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
    scores = 2 * shape.query_width * length  # of a layer; causal: half of the positions, scores and mix
    per_weight, per_score = (6, 4) if setting.config.backbone.checkpointing else (4, 3)
    backward = per_weight * shape.layer_elements + per_score * scores
    layers = shape.num_backward * backward + shape.num_forward_only * (2 * shape.layer_elements + scores)
    return tokens * (layers + per_weight * shape.embedding_elements + 6 * shape.branch_elements)


def compute_seconds(shape: TypeShape, num_clients: int, setting: Setting) -> float:
    """Return the seconds of one training pass of a chunk, if its weights are there."""
    speed = setting.cluster.flops or setting.calibration.flops
    overhead = shape.num_layers * setting.calibration.layer_seconds
    return overhead + pass_flops(shape, num_clients, setting) / speed
