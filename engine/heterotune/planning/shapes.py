"""The numbers of a LLaMA and of its adapter that decide memory and time."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

from heterotune.adapters.layout import AdapterLayout
from heterotune.adapters.training_flops import branch_elements, lowest_trained_layer
from heterotune.fleet.model_types import ALL_LINEARS, ModelType
from heterotune.fleet.parameter_shapes import num_layer_elements

DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True)
class TypeShape:
    """A model type with its adapter.

    Attributes:
        model_type: The LLaMA.
        layout: Its adapter under the run's strategy.
    """

    model_type: ModelType
    layout: AdapterLayout

    @property
    def width(self) -> int:
        """D."""
        return self.model_type.width

    @property
    def num_layers(self) -> int:
        """L."""
        return self.model_type.num_layers

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.model_type.vocab_size

    @property
    def query_width(self) -> int:
        """Width of all query heads."""
        return self.model_type.linear_shapes["q_proj"][0]

    @property
    def key_width(self) -> int:
        """Width of all key heads, and of all value heads."""
        return self.model_type.linear_shapes["k_proj"][0]

    @property
    def inner(self) -> int:
        """Inner width of the MLP, I."""
        return self.model_type.linear_shapes["gate_proj"][0]

    @property
    def num_heads(self) -> int:
        """Query heads."""
        return self.model_type.source.llama["num_attention_heads"]

    @property
    def layer_elements(self) -> int:
        """Weights of one layer."""
        return num_layer_elements(self.model_type.source.llama, self.model_type.linear_shapes)

    @property
    def embedding_elements(self) -> int:
        """Weights of the input embedding, which are also the head's where they are tied."""
        return self.vocab_size * self.width

    @cached_property
    def num_forward_only(self) -> int:
        """Layers below the lowest that trains: they have no backward pass, keep nothing, and are computed once."""
        return lowest_trained_layer(self.model_type, self.layout)

    @property
    def num_backward(self) -> int:
        """Layers from the lowest on that trains."""
        return self.num_layers - self.num_forward_only

    @cached_property
    def rank_of_linear(self) -> dict[str, int]:
        """Linear -> its branches' ranks together, of the lowest layer that has any; those above are like it."""
        ranks: dict[str, int] = defaultdict(int)
        specs = {spec.name: spec for spec in self.layout.tensors}
        for branch in self.layout.branches:
            if branch.module.startswith(f"layers.{self.num_forward_only}."):
                ranks[branch.module.rpartition(".")[2]] += specs[branch.down].shape[0]
        assert ranks.keys() <= set(ALL_LINEARS)
        return dict(ranks)

    @cached_property
    def is_side_by_side(self) -> bool:
        """Whether a site's branches are put together into new tensors in every pass."""
        modules = [branch.module for branch in self.layout.branches]
        return len(modules) > len(set(modules)) or any(branch.gate for branch in self.layout.branches)

    @cached_property
    def branch_elements(self) -> int:
        """Elements of a client's branches outside the head, without state that a method keeps beside them."""
        return branch_elements(self.layout)

    @cached_property
    def head_elements(self) -> int:
        """Trained elements of a client's head branch."""
        head = self.layout.head
        return 0 if head is None else (head.head_rank + 1) * head.basis_rank

    @cached_property
    def frame_elements(self) -> tuple[int, int]:
        """Frozen elements of the head branch: of the type's own map and mean, and of the common basis."""
        head = self.layout.head
        if head is None:
            return 0, 0
        return (head.head_rank + 1) * self.width, head.basis_rank * self.vocab_size
