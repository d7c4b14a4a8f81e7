"""SCAFFOLD on LoRA: every local step is corrected by how the client's gradients differ from everybody's.

Source: Karimireddy et al. (ICML 2020), option II. Two control variates lie beside the trained tensors and do not train
themselves: the common c (scope "type") and the client's own c_k (scope "client", kept between rounds), both 0 at first.

    after each step     theta_k <- theta_k - rate (c - c_k), with the step's own rate
    after the last      c_k+ = c_k - c + (theta - theta_k) / (sum of rates)
    at the server       theta <- theta + rate_server mean(theta_k - theta);  c <- c + |S| / N mean(c_k+ - c_k)

All clients weigh the same; c and its change travel too, so messages are twice FedAvg's. It is derived for plain SGD:
under momentum or AdamW, and with clipping, the division by the rates does not give a gradient and the correction is
only formal. A client whose update the server refuses keeps the c_k of its training all the same.

Legend: K clients, P columns of a bank, T of them trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from heterotune.adapters.bank import Bank
from heterotune.adapters.control_variates import COMMON, OWN
from heterotune.adapters.layout import AdapterLayout
from heterotune.adapters.tables import adapter_layout
from heterotune.config.schema import RunConfig
from heterotune.strategies.strategy import Combined, ServerRound, Strategy, TypeUpdate, fedavg
from heterotune.training.local_rule import LocalRule


def make(config: RunConfig) -> Strategy:
    """Return FedAvg of LoRA with control variates."""
    told = (
        f"scaffold under local.optimizer = {config.local.optimizer}: its correction is derived for sgd and only formal"
    )
    return Strategy(
        "scaffold",
        partial(adapter_layout, "scaffold", config),
        partial(_combine, learning_rate=config.scaffold.server_learning_rate),
        _local_rule,
        weights="clients",
        warnings=() if config.local.optimizer == "sgd" else (told,),
    )


@dataclass(frozen=True)
class _Columns:
    """Where the trained tensors of a bank are, and in the same order the control variates that belong to them."""

    trained: slice
    common: slice
    own: slice

    @classmethod
    def of(cls, layout: AdapterLayout) -> _Columns:
        names = [spec.name for spec in layout.tensors if spec.trains]
        return cls(*(_run(layout, [prefix + name for name in names]) for prefix in ("", COMMON, OWN)))


def _run(layout: AdapterLayout, names: Sequence[str]) -> slice:
    """Return the columns of tensors that lie one after the other in this order."""
    parts = [layout.columns[name] for name in names]
    assert all(part.stop == after.start for part, after in zip(parts, parts[1:], strict=False))
    return slice(parts[0].start, parts[-1].stop)


def _local_rule(layout: AdapterLayout, round_number: int) -> LocalRule:
    columns = _Columns.of(layout)
    return LocalRule(after_step=partial(_correct, columns=columns), finish=partial(_renew, columns=columns))


def _correct(bank: Bank, rate_K1: Tensor, *, columns: _Columns) -> None:
    """theta_k <- theta_k - rate (c - c_k)."""
    difference_KT = bank.values_KP[:, columns.common] - bank.values_KP[:, columns.own]
    bank.values_KP[:, columns.trained].addcmul_(difference_KT, rate_K1, value=-1.0)


def _renew(bank: Bank, rate_sum_K1: Tensor, *, columns: _Columns) -> None:
    """c_k+ = c_k - c + (theta - theta_k) / (sum of rates); what the client sends of c is c_k+ - c_k."""
    values_KP, start_KP = bank.values_KP, bank.start_KP
    moved_KT = start_KP[:, columns.trained] - values_KP[:, columns.trained]
    change_KT = moved_KT / rate_sum_K1 - values_KP[:, columns.common]
    values_KP[:, columns.own] += change_KT
    values_KP[:, columns.common] += change_KT


def _combine(updates: Sequence[TypeUpdate], server: ServerRound, *, learning_rate: float) -> Combined:
    """Add the mean update to the trained tensors, and to c as much as the cohort is of the type's clients."""
    change: dict[str, Tensor] = {}
    mean = fedavg(updates, server).change
    for update in updates:
        share = (
            update.weight / server.num_enlisted[update.model_type]
        )  # clients weigh 1; with noise, all that were drawn
        for key in update.mean:
            change[key] = mean[key] * (share if key.startswith(COMMON) else learning_rate)
    return Combined(change)
