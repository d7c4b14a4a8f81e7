"""What a rank's memory consists of: one list of words for the plan before a run and the profile after it."""

from __future__ import annotations

from typing import Final

RUNTIME: Final = "runtime"
"""The process before it loads a model: Python, torch, DeepSpeed, MPI; and code that is paged in when it first runs."""
BACKBONE_SHARDS: Final = "backbone_shards"
"""This rank's part of the frozen backbones, or its replicas."""
GATHERED_LAYERS: Final = "gathered_layers"
"""Weights that ZeRO-3 gathered for the layer at work, and those it keeps gathered."""
ADAPTERS: Final = "adapters"
"""The bank of the chunk at work: values, gradients, values at the start; frozen tensors of the head branch."""
OPTIMIZER_STATE: Final = "optimizer_state"
"""Moments of the chunk's clients, and what a step needs for a moment."""
ACTIVATIONS: Final = "activations"
"""What the forward pass keeps for the backward pass, and both passes' temporaries."""
LOGITS: Final = "logits"
"""Blocks of logits and of their gradient at the head."""
BUFFERS: Final = "buffers"
"""Exact sums, messages, staging of collectives, checkpoints being written."""
DATA: Final = "data"
"""Rows of all clients, held-out and public rows, prepared batches."""
ALLOCATOR: Final = "allocator"
"""Freed memory that the C library keeps for the next request, and gaps too small for any."""

COMPONENTS: Final = (
    RUNTIME,
    BACKBONE_SHARDS,
    GATHERED_LAYERS,
    ADAPTERS,
    OPTIMIZER_STATE,
    ACTIVATIONS,
    LOGITS,
    BUFFERS,
    DATA,
    ALLOCATOR,
)
UNEXPLAINED: Final = "unexplained"
"""A measured peak less all components."""
