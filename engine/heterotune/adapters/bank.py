"""The adapters of a chunk of clients, stacked along one leading axis.

Legend: K clients of the chunk, P trained elements per client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heterotune.adapters.layout import AdapterLayout, TensorSpec


@dataclass(frozen=True)
class HeadFrame:
    """The frozen part of the head branch, from alignment.

    Attributes:
        down_RD: V_m, float32, shape (head_rank, d_m).
        mean_D: μ_m, float32, shape (d_m,).
        basis_QV: Q, the common basis of the vocabulary, float32, shape (basis_rank, vocab_size).
    """

    down_RD: Tensor
    mean_D: Tensor
    basis_QV: Tensor


class Bank:
    """Values and gradients of K clients' adapters as two flat (K, P) matrices with a view for every tensor.

    One optimiser step is then a few operations on a matrix, however many tensors there are, and a client's update is a
    row. The views are autograd leaves that share storage with `values_KP`; their gradients accumulate in `grads_KP`.
    """

    def __init__(
        self,
        layout: AdapterLayout,
        values_KP: Tensor,
        head_frame: HeadFrame | None = None,
        start_KP: Tensor | None = None,
        base: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Take ownership of `values_KP`.

        Args:
            layout: The model type's adapter.
            values_KP: float32, contiguous, shape (K, layout.num_columns).
            head_frame: Frozen head tensors, if the layout has a head branch.
            start_KP: The values before training, for the update; may be an expanded row where all clients start alike.
                None copies `values_KP`.
            base: Path of a frozen linear -> what the server has added to its weight, float32, shape (d_out, d_in); the
                same for all clients, and never trained.
        """
        assert values_KP.shape[1] == layout.num_columns and values_KP.is_contiguous()
        self.layout = layout
        self.values_KP = values_KP
        self.grads_KP = torch.zeros_like(values_KP)
        self.start_KP = values_KP.clone() if start_KP is None else start_KP
        self.head_frame = head_frame
        self.base = base or {}
        self._views = {spec.name: self._leaf(spec) for spec in layout.tensors}

    def _leaf(self, spec: TensorSpec) -> Tensor:
        columns = self.layout.columns[spec.name]
        leaf = self.values_KP[:, columns].unflatten(1, spec.shape).detach()
        if spec.trains:
            leaf.requires_grad_()
            leaf.grad = self.grads_KP[:, columns].unflatten(1, spec.shape)
        return leaf

    @property
    def num_clients(self) -> int:
        """K."""
        return self.values_KP.shape[0]

    def __getitem__(self, name: str) -> Tensor:
        """Return the leaf of a tensor, shape (K, *spec.shape)."""
        return self._views[name]

    def zero_grad(self) -> None:
        """Set all gradients to zero, keeping their storage."""
        self.grads_KP.zero_()


def stack_clients(
    layout: AdapterLayout,
    shared: Mapping[str, Tensor],
    personal: Sequence[Mapping[str, Tensor]],
    *,
    device: torch.device,
    head_frame: HeadFrame | None,
    base: Mapping[str, Tensor] | None = None,
) -> Bank:
    """Build the bank of a chunk.

    Args:
        layout: The model type's adapter.
        shared: Key -> what the model type holds of a common value, for every tensor but personal ones.
        personal: For each client, name -> value of its own "client" tensors.
        device: Where the backbone runs.
        head_frame: Frozen head tensors on that device, if the layout has a head branch.
        base: Path of a frozen linear -> what the server has added to its weight.
    """
    start_P = torch.zeros(layout.num_columns)
    for spec in layout.tensors:
        if spec.scope != "client":
            start_P[layout.columns[spec.name]] = shared[spec.key].flatten()
    start_KP = start_P.to(device).expand(len(personal), -1)
    if any(personal):
        start_KP = start_KP.clone()
        for spec in layout.personal:
            own = torch.stack([tensors[spec.name].flatten() for tensors in personal])
            start_KP[:, layout.columns[spec.name]] = own.to(device)
    values_KP = start_KP.clone(memory_format=torch.contiguous_format)
    on_device = {path: change.to(device) for path, change in (base or {}).items()}
    return Bank(layout, values_KP, head_frame, start_KP, on_device)
