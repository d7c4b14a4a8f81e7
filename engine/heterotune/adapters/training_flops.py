"""The operations of local training: what a device computes that trains an adapter beside a frozen LLaMA.

Counted are products of matrices, a multiplication and an addition as two operations, as Kaplan et al. (2020,
arXiv:2001.08361, table 1) and Hoffmann et al. (2022, arXiv:2203.15556, appendix F) do: a weight costs 2 operations a
token forward, 2 for the gradient of its input, and 2 more for its own gradient, but these only where it trains. Unlike
theirs, layers below the lowest trained one have no backward pass, and attention is counted as a kernel computes it that
skips masked scores. Not counted: norms, activations, softmax, rotary embeddings, the optimiser's step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from heterotune.adapters.layout import AdapterLayout
from heterotune.fleet.model_types import ModelType

READS_INPUT = ("q_proj", "k_proj", "v_proj")
"""The linears that read a layer's input (behind its norm)."""


def causal_pairs(row_tokens: Iterable[int]) -> int:
    """Return the pairs of a token and one that it attends to, itself included, in rows of so many tokens."""
    return sum(int(tokens) * (int(tokens) + 1) // 2 for tokens in row_tokens)


@dataclass(frozen=True)
class TrainingCost:
    """What training costs a client of one model type, in operations.

    Attributes:
        flops_per_token: For each real token of the rows in all steps. Padding is the simulator's: a device packs rows.
        flops_per_pair: For each of `causal_pairs` of the same rows; a sliding window, which has fewer, is not counted.
    """

    flops_per_token: int
    flops_per_pair: int

    def flops(self, *, num_tokens: int, num_pairs: int) -> int:
        """Return the operations of some steps: forward, backward, the adapter's own gradient."""
        return num_tokens * self.flops_per_token + num_pairs * self.flops_per_pair


def training_cost(model_type: ModelType, layout: AdapterLayout, *, checkpointing: bool = False) -> TrainingCost:
    """Return what training costs a client; once for each model type.

    Args:
        model_type: The LLaMA.
        layout: What trains: low-rank branches, a branch at the head, or whole weights.
        checkpointing: The layers' forward pass is computed twice.
    """
    shapes = model_type.linear_shapes
    lowest = lowest_trained_layer(model_type, layout)
    num_backward = model_type.num_layers - lowest
    per_token = _head_flops(model_type, layout, has_backward=num_backward > 0)
    layer = 2 * sum(rows * columns for rows, columns in shapes.values())
    per_token += layer * (model_type.num_layers + num_backward * (2 if checkpointing else 1))
    per_token += _branch_flops(layout, lowest, checkpointing=checkpointing)
    if layout.dense:
        per_token += 2 * sum(_num_elements(layout)[name] for name in layout.dense if name.startswith("layers."))
    elif num_backward:  # nothing below the lowest layer trains, so its input has no gradient
        per_token -= 2 * sum(shapes[name][0] * shapes[name][1] for name in READS_INPUT)
    scores = 4 * shapes["q_proj"][0]  # of one layer: the scores, and the values that they mix
    per_pair = scores * (model_type.num_layers + num_backward * (3 if checkpointing else 2))
    return TrainingCost(per_token, per_pair)


def branch_elements(layout: AdapterLayout) -> int:
    """Return the elements of a client's branches outside the head, without state that a method keeps beside them."""
    elements = _num_elements(layout)
    return sum(elements[name] for branch in layout.branches for name in (branch.up, branch.down, branch.gate) if name)


def lowest_trained_layer(model_type: ModelType, layout: AdapterLayout) -> int:
    """Return the number of the lowest layer that gradients go through; the number of layers if there is none."""
    if layout.dense:
        return 0
    return min((int(branch.module.split(".")[1]) for branch in layout.branches), default=model_type.num_layers)


def _head_flops(model_type: ModelType, layout: AdapterLayout, *, has_backward: bool) -> int:
    """Return a token's operations at the output head, once for each exit, and in the branch there."""
    passes = 2 if has_backward else 1
    trains_head = layout.output_embedding is not None
    flops = 2 * model_type.width * model_type.vocab_size * (passes * (1 + len(layout.exits)) + trains_head)
    if layout.head is not None:
        head = layout.head
        flops += 2 * passes * (head.head_rank + 1) * model_type.width  # V, frozen
        flops += 2 * (passes + 1) * (head.head_rank + 1) * head.basis_rank  # S, the core
        flops += 2 * 2 * head.basis_rank * model_type.vocab_size  # Q, frozen, between the core and the loss
    return flops


def _branch_flops(layout: AdapterLayout, lowest: int, *, checkpointing: bool) -> int:
    """Return a token's operations in the low-rank paths."""
    specs, flops = {spec.name: spec for spec in layout.tensors}, 0
    for branch in layout.branches:
        _, layer, *_, linear = branch.module.split(".")
        reads_frozen = int(layer) == lowest and linear in READS_INPUT
        up, down = specs[branch.up], specs[branch.down]
        flops += 2 * up.num_elements * (2 + up.trains + checkpointing)
        flops += 2 * down.num_elements * (1 + (not reads_frozen) + down.trains + checkpointing)
    return flops


def _num_elements(layout: AdapterLayout) -> dict[str, int]:
    """Return name of a tensor -> its elements for one client."""
    return {spec.name: spec.num_elements for spec in layout.tensors}
