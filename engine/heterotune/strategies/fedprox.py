"""FedProx on LoRA: FedAvg whose clients are pulled back to the common values while they train.

Source: Li et al., Federated Optimization in Heterogeneous Networks (MLSys 2020). The penalty mu / 2 · |theta -
theta_common|² is on the LoRA factors, not on their product. Differs: clients make the steps that `local` says.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from heterotune.adapters.bank import Bank
from heterotune.adapters.layout import AdapterLayout
from heterotune.adapters.tables import adapter_layout
from heterotune.config.schema import RunConfig
from heterotune.strategies.strategy import Strategy
from heterotune.training.local_rule import PLAIN, LocalRule


def make(config: RunConfig) -> Strategy:
    """Return FedAvg of LoRA with a penalty in every client's loss; with mu = 0 it is FedAvg."""
    return Strategy(
        "fedprox",
        partial(adapter_layout, "fedprox", config),
        local_rule=partial(_local_rule, mu=config.fedprox.mu),
    )


def _local_rule(layout: AdapterLayout, round_number: int, *, mu: float) -> LocalRule:
    return LocalRule(loss_term=partial(proximal_term, mu=mu)) if mu > 0.0 else PLAIN


def proximal_term(bank: Bank, start_KP: Tensor, *, mu: float) -> Tensor:
    """Return mu / 2 · |theta - theta_start|² of each client, shape (K,); differentiable in the bank's tensors."""
    terms = [
        (bank[spec.name].flatten(1) - start_KP[:, bank.layout.columns[spec.name]]).square().sum(dim=1)
        for spec in bank.layout.tensors
        if spec.trains
    ]
    return 0.5 * mu * sum(terms)
