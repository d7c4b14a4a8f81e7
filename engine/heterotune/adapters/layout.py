"""What an adapter consists of: tensors with scopes, branches at linear layers and at the head, or dense differences.

Scope is the one idea of DeMA: a tensor's scope says over which clients it is averaged. A federated method on adapters
is a table of such tensors; nothing else in the engine asks which method it runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from heterotune.adapters.window import Window
from heterotune.randomness import NO_ROUND, generator

Scope = Literal["client", "type", "width", "fleet", "constant"]
Init = Literal["zeros", "ones", "kaiming"]
Activation = Literal["none", "silu"]


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of an adapter.

    Attributes:
        name: Its name within the model type, e.g. "layers.3.self_attn.q_proj.width.V".
        shape: Its shape for one client.
        scope: The clients over which it is averaged; "client" never travels, nor does "constant": every client draws
            it from the run's seed, and it stays what it is.
        key: Where its common value lives: tensors of several model types with one key are one tensor. For scope
            "client" the key is unused.
        group: The tensor group that the ledger counts it under, e.g. "dema.width".
        depth_class: Layers of different models with one depth class count as the same depth ("head" for the head).
        init: Its first value; "kaiming" is uniform in ±1/sqrt(d_in) as in PEFT's LoRA A.
        learning_rate_scale: Factor on the client's learning rate.
        one_second_moment: Adam keeps one second-moment scalar for a client's whole tensor, not one per element.
        trains: Whether local steps change it; one that does not may be state of a method, or frozen at random values.
        window: The part of a larger common tensor that this is; None = all of it. Tensors of one key then differ in
            shape, and where they meet is known in the common tensor.
        redrawn: Every round begins with its first value, drawn anew from the seed: clients send it, but download none.
    """

    name: str
    shape: tuple[int, ...]
    scope: Scope
    key: str
    group: str
    depth_class: str
    init: Init = "zeros"
    learning_rate_scale: float = 1.0
    one_second_moment: bool = False
    trains: bool = True
    window: Window | None = None
    redrawn: bool = False

    @property
    def num_elements(self) -> int:
        """Elements for one client."""
        return math.prod(self.shape)

    @property
    def common(self) -> TensorSpec:
        """The whole tensor that model types share, whatever part of it this type holds."""
        return self if self.window is None else replace(self, shape=self.window.full_shape, window=None)


@dataclass(frozen=True)
class Branch:
    """One low-rank path at one linear layer: y += gate · scale · U a(V x); names refer to `TensorSpec.name`.

    All branches at one linear have the same activation a.

    Attributes:
        site: Where branches of siblings meet: one linear of one layer of the model that they were cut from.
    """

    module: str
    up: str
    down: str
    scale: float
    gate: str | None = None
    activation: Activation = "none"
    site: str = ""


@dataclass(frozen=True)
class BaseSite:
    """A frozen linear whose weights a method changes between rounds, for all clients of the model type alike.

    Attributes:
        module: Path of the linear.
        key: Where the change lives; a model type's own.
        shape: (d_out, d_in).
    """

    module: str
    key: str
    shape: tuple[int, int]


@dataclass(frozen=True)
class HeadBranch:
    """The branch at the head: logits += [V (x - mean), 1] S Q. V, mean and Q are frozen and come from alignment.

    Attributes:
        core: Name of S, shape (head_rank + 1, basis_rank); the last row is the bias.
        head_rank: Rows of V.
        basis_rank: Rows of Q, the common basis of the vocabulary.
        outputs: Whether the rows of Q are directions of the vocabulary, or one token of a class name each.
    """

    core: str
    head_rank: int
    basis_rank: int
    outputs: Literal["vocabulary", "labels"] = "vocabulary"


@dataclass(frozen=True)
class AdapterLayout:
    """The adapter of one model type. Tensors are ordered by (group, name), so that each group is one run of columns.

    Attributes:
        model_type: Its name.
        tensors: All trained tensors.
        branches: Low-rank paths beside frozen linears.
        head: The low-rank path beside the frozen output head.
        dense: Names of tensors that are differences to whole frozen parameters: each is the path of a parameter of
            `LlamaModel`, and the model computes with the sum of the two.
        output_embedding: Name of the tensor that is the difference to the output embedding, None = it stays as it is.
            Where embeddings are tied, the input embedding's.
        exits: Numbers of layers after which the model answers as well as at its end, while it trains.
        base: Frozen linears that the server changes.
    """

    model_type: str
    tensors: tuple[TensorSpec, ...]
    branches: tuple[Branch, ...] = ()
    head: HeadBranch | None = None
    dense: tuple[str, ...] = ()
    output_embedding: str | None = None
    exits: tuple[int, ...] = ()
    base: tuple[BaseSite, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", tuple(sorted(self.tensors, key=lambda spec: (spec.group, spec.name))))

    @cached_property
    def columns(self) -> dict[str, slice]:
        """Tensor name -> its columns in the flat (K, P) matrix of a chunk."""
        columns, start = {}, 0
        for spec in self.tensors:
            columns[spec.name] = slice(start, start + spec.num_elements)
            start += spec.num_elements
        return columns

    @cached_property
    def num_columns(self) -> int:
        """P: elements per client."""
        return sum(spec.num_elements for spec in self.tensors)

    @cached_property
    def travelling(self) -> tuple[TensorSpec, ...]:
        """The tensors that clients send: every scope but "client" and "constant"."""
        return tuple(spec for spec in self.tensors if spec.scope not in ("client", "constant"))

    @cached_property
    def downloads(self) -> dict[str, tuple[TensorSpec, ...]]:
        """Tensor group -> its tensors that clients download, in the order of their message; no group without any."""
        groups: dict[str, tuple[TensorSpec, ...]] = {}
        for spec in self.travelling:
            if not spec.redrawn:
                groups[spec.group] = (*groups.get(spec.group, ()), spec)
        return groups

    @cached_property
    def personal(self) -> tuple[TensorSpec, ...]:
        """The tensors that a client keeps for itself: scope "client"."""
        return tuple(spec for spec in self.tensors if spec.scope == "client")

    @property
    def trains_personal(self) -> bool:
        """Whether a client's own model is another than the common one: some of what it keeps trains."""
        return any(spec.trains for spec in self.personal)

    @property
    def head_core_key(self) -> str:
        """The key of the head branch's core; only where there is one."""
        return next(spec.key for spec in self.tensors if spec.name == self.head.core)

    @cached_property
    def num_travelling(self) -> int:
        """Elements that a client sends."""
        return sum(spec.num_elements for spec in self.travelling)

    @cached_property
    def travelling_columns(self) -> dict[str, slice]:
        """Name of a travelling tensor -> its place in the vector of what a client sends, group after group."""
        places, start = {}, 0
        for spec in self.travelling:
            places[spec.name] = slice(start, start + spec.num_elements)
            start += spec.num_elements
        return places

    @cached_property
    def group_columns(self) -> dict[str, slice]:
        """Tensor group -> its columns, for the groups that travel. A group is one scope: all of it travels or none."""
        groups: dict[str, slice] = {}
        for spec in self.travelling:
            columns = self.columns[spec.name]
            start = groups[spec.group].start if spec.group in groups else columns.start
            groups[spec.group] = slice(start, columns.stop)
        return groups


def initial_value(
    spec: TensorSpec, *, run_seed: int, client_id: int, name: str, round_number: int = NO_ROUND
) -> np.ndarray:
    """Return the first value of a tensor, float32.

    Args:
        spec: The tensor.
        run_seed: The run's seed.
        client_id: The owner of a "client" tensor, `NO_CLIENT` for a shared one.
        name: What the draw is for: the key of a shared tensor, else its name.
        round_number: The round that begins with it, where every round does.
    """
    if spec.init == "zeros":
        return np.zeros(spec.shape, dtype=np.float32)
    if spec.init == "ones":
        return np.ones(spec.shape, dtype=np.float32)
    bound = 1.0 / math.sqrt(spec.shape[-1])
    draw = generator(run_seed, round_number, client_id, f"init/{name}")
    return draw.uniform(-bound, bound, size=spec.shape).astype(np.float32)
