"""Attach adapters to a frozen backbone: its adapted modules compute the branches or differences too, unseen by ZeRO.

Legend: R rows = K clients × B rows each, in client order; T tokens; D width.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heterotune.adapters.adapted_linear import adapted_linear, branch_beside
from heterotune.adapters.bank import Bank
from heterotune.adapters.dense_modules import dense_forward
from heterotune.adapters.layout import AdapterLayout, Branch


class AttachedAdapter:
    """The branches of one layout on one backbone. `use(bank)` says whose values they carry."""

    def __init__(self, layout: AdapterLayout, llama: nn.Module) -> None:
        """Take over `forward` of every adapted module of a `LlamaModel`; `detach()` gives it back.

        Hooks on the modules stay in force: ZeRO gathers a weight before its module runs and before its backward pass.
        """
        self.bank: Bank | None = None
        self._modules: list[nn.Module] = []
        branches_at: dict[str, list[Branch]] = defaultdict(list)
        for branch in layout.branches:
            branches_at[branch.module].append(branch)
        for path, branches in branches_at.items():
            linear = llama.get_submodule(path)
            self._take_over(linear, self._forward(path, linear, branches))
        for path, parameters in _parameters_at(layout.dense).items():
            module = llama.get_submodule(path)
            self._take_over(module, self._dense_forward(module, parameters))

    def detach(self) -> None:
        """Take the adapters off the backbone."""
        for module in self._modules:
            del module.forward

    @contextmanager
    def use(self, bank: Bank) -> Iterator[None]:
        """Let the backbone run with this bank's adapters; its rows belong to the bank's clients in equal parts."""
        assert self.bank is None, "two banks on one backbone"
        self.bank = bank
        try:
            yield
        finally:
            self.bank = None

    def _take_over(self, module: nn.Module, forward: Callable[[Tensor], Tensor]) -> None:
        assert "forward" not in vars(module), "two adapters on one backbone"
        module.forward = forward
        self._modules.append(module)

    def _dense_forward(self, module: nn.Module, parameters: Mapping[str, str]) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            if self.bank is None:
                return type(module).forward(module, x)
            return dense_forward(module, x, {name: self.bank[tensor] for name, tensor in parameters.items()})

        return forward

    def _forward(self, path: str, linear: nn.Linear, branches: Sequence[Branch]) -> Callable[[Tensor], Tensor]:
        activation = branches[0].activation

        def forward(x_RTD: Tensor) -> Tensor:
            if self.bank is None:
                return type(linear).forward(linear, x_RTD)
            down, up, scale = side_by_side(branches, self.bank, x_RTD.dtype)
            if type(linear) is nn.Linear:
                output = adapted_linear(x_RTD, linear.weight, linear.bias, down, up, scale, activation)
            else:
                output = branch_beside(type(linear).forward(linear, x_RTD), x_RTD, down, up, scale, activation)
            change = self.bank.base.get(path)
            # Beside the weight, not added to it: the sum would be kept for the backward pass, a copy of the model.
            return output if change is None else output + F.linear(x_RTD, change.to(x_RTD.dtype))

        return forward


def _parameters_at(dense: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return path of a module -> name of its parameter -> name of the tensor that is the difference to it."""
    parameters_at: dict[str, dict[str, str]] = defaultdict(dict)
    for tensor in dense:
        path, _, parameter = tensor.rpartition(".")
        parameters_at[path][parameter] = tensor
    return parameters_at


def side_by_side(branches: Sequence[Branch], bank: Bank, dtype: torch.dtype) -> tuple[Tensor, Tensor, float]:
    """Return the branches of a site as one: V and U with their ranks side by side, and a common scale.

    Args:
        branches: All branches at one linear, at least one.
        bank: Their values.
        dtype: That of the backbone's activations.

    Returns:
        V (K, Σr, d_in), U (K, d_out, Σr) and the scale: Σ_b g_b s_b U_b a(V_b x) = scale · U a(V x).
    """
    if len(branches) == 1 and branches[0].gate is None:
        return bank[branches[0].down].to(dtype), bank[branches[0].up].to(dtype), branches[0].scale
    ups = []
    for branch in branches:
        up = bank[branch.up] * branch.scale
        ups.append(up if branch.gate is None else up * bank[branch.gate].unsqueeze(-1))
    down = torch.cat([bank[branch.down] for branch in branches], dim=1)
    return down.to(dtype), torch.cat(ups, dim=2).to(dtype), 1.0


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
