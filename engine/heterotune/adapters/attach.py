"""Attach adapters to a frozen backbone with forward hooks; ZeRO never sees them.

Legend: R rows = K clients × B rows each, in client order; T tokens; D width; r adapter rank.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from heterotune.adapters.bank import Bank
from heterotune.adapters.layout import AdapterLayout, Branch


class AttachedAdapter:
    """The branches of one layout on one backbone. `use(bank)` says whose values they carry."""

    def __init__(self, layout: AdapterLayout, llama: nn.Module) -> None:
        """Register one hook per adapted linear of a `LlamaModel`. `detach()` removes them."""
        self.layout = layout
        self.bank: Bank | None = None
        branches_at: dict[str, list[Branch]] = defaultdict(list)
        for branch in layout.branches:
            branches_at[branch.module].append(branch)
        self._handles = [
            llama.get_submodule(path).register_forward_hook(self._hook(branches))
            for path, branches in branches_at.items()
        ]

    def detach(self) -> None:
        """Remove the hooks from the backbone."""
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def use(self, bank: Bank) -> Iterator[None]:
        """Let the backbone run with this bank's adapters; its rows belong to the bank's clients in equal parts."""
        assert self.bank is None, "two banks on one backbone"
        self.bank = bank
        try:
            yield
        finally:
            self.bank = None

    def _hook(self, branches: list[Branch]):
        def add_branches(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if self.bank is None:
                return output
            for branch in branches:
                output = add_branch(output, inputs[0], branch, self.bank)
            return output

        return add_branches


def add_branch(output_RTD: Tensor, input_RTD: Tensor, branch: Branch, bank: Bank) -> Tensor:
    """Return output + gate · scale · U V x, each row through its own client's U and V.

    Args:
        output_RTD: What the frozen linear gave, shape (R, T, d_out).
        input_RTD: Its input, shape (R, T, d_in); R is a multiple of the bank's clients, in client order.
        branch: Which tensors.
        bank: Their values.
    """
    num_clients = bank.num_clients
    down_KrD = bank[branch.down].to(input_RTD.dtype)
    up_KDr = bank[branch.up].to(input_RTD.dtype)
    x_KND = input_RTD.reshape(num_clients, -1, input_RTD.shape[-1])
    low_KNr = torch.bmm(x_KND, down_KrD.transpose(1, 2))
    if branch.gate is not None:
        low_KNr = low_KNr * bank[branch.gate].to(low_KNr.dtype).view(num_clients, 1, 1)
    out_KND = output_RTD.reshape(num_clients, -1, output_RTD.shape[-1])
    return torch.baddbmm(out_KND, low_KNr, up_KDr.transpose(1, 2), alpha=branch.scale).view_as(output_RTD)


def head_features(final_RTD: Tensor, bank: Bank) -> Tensor | None:
    """Return [V (x - mean), 1] S, the features that the common vocabulary basis turns into logits.

    Args:
        final_RTD: Final hidden states, shape (R, T, d_m).
        bank: The chunk's adapters.

    Returns:
        Shape (R, T, basis_rank), or None without a head branch.
    """
    head, frame = bank.layout.head, bank.head_frame
    if head is None or frame is None:
        return None
    aligned = (final_RTD - frame.mean_D.to(final_RTD.dtype)) @ frame.down_RD.to(final_RTD.dtype).T
    aligned = torch.cat([aligned, aligned.new_ones(*aligned.shape[:-1], 1)], dim=-1)
    core_KSQ = bank[head.core].to(aligned.dtype)
    features = torch.bmm(aligned.reshape(bank.num_clients, -1, aligned.shape[-1]), core_KSQ)
    return features.view(*final_RTD.shape[:2], -1)
