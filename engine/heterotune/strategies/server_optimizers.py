"""FedAvgM, FedAdagrad, FedAdam and FedYogi: the mean update is a gradient for an optimiser at the server.

Source: Reddi et al., Adaptive Federated Optimization (ICLR 2021), algorithm 2; FedAvgM after Hsu et al. (2019), with
the mean update as the first momentum (as OpenFedLLM has it), so that no round is shortened. As in the paper the second
moment is of the mean update itself (OpenFedLLM squares the momentum), and there is no bias correction. All arithmetic
is element by element in float64; a tensor whose clients are all missing in a round keeps its state.

Legend: delta the mean update, m and v its moments, tau the adaptivity; v starts as tau².
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from heterotune.adapters.tables import adapter_layout
from heterotune.config.baseline_options import FedadagradOptions, FedadamOptions
from heterotune.config.schema import RunConfig
from heterotune.strategies.strategy import Combine, Combined, ServerRound, Strategy, TypeUpdate, fedavg

SecondMoment = Callable[[Tensor, Tensor], Tensor]
"""(v, delta²) -> the new v."""


def momentum_server(*, beta: float, learning_rate: float) -> Combine:
    """Return m <- beta m + (1 - beta) delta (at first m = delta); theta += learning_rate m."""

    def step(key: str, delta_P: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        first_P = state.get(f"m/{key}")
        first_P = delta_P.clone() if first_P is None else first_P * beta + delta_P * (1.0 - beta)
        return first_P * learning_rate, {f"m/{key}": first_P}

    return partial(_combine, step=step)


def adaptive_server(*, beta: float, second_moment: SecondMoment, learning_rate: float, tau: float) -> Combine:
    """Return m <- beta m + (1 - beta) delta; v by `second_moment`; theta += learning_rate m / (sqrt(v) + tau)."""

    def step(key: str, delta_P: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        first_P = state.get(f"m/{key}", torch.zeros_like(delta_P)) * beta + delta_P * (1.0 - beta)
        second_P = second_moment(state.get(f"v/{key}", torch.full_like(delta_P, tau * tau)), delta_P.square())
        change_P = first_P * learning_rate / (second_P.sqrt() + tau)
        return change_P, {f"m/{key}": first_P, f"v/{key}": second_P}

    return partial(_combine, step=step)


def adaptive_strategy(config: RunConfig, name: str, *, beta: float, second_moment: SecondMoment) -> Strategy:
    """Return FedAvg of LoRA with an adaptive server; all clients weigh the same, as in the paper's algorithm 2."""
    options: FedadamOptions | FedadagradOptions = getattr(config, name)
    combine = adaptive_server(
        beta=beta,
        second_moment=second_moment,
        learning_rate=options.server_learning_rate,
        tau=options.adaptivity,
    )
    return Strategy(name, partial(adapter_layout, name, config), combine, weights="clients")


def adagrad_moment(second_P: Tensor, square_P: Tensor) -> Tensor:
    """v <- v + delta²."""
    return second_P + square_P


def adam_moment(second_P: Tensor, square_P: Tensor, *, beta: float) -> Tensor:
    """v <- beta v + (1 - beta) delta²."""
    return second_P * beta + square_P * (1.0 - beta)


def yogi_moment(second_P: Tensor, square_P: Tensor, *, beta: float) -> Tensor:
    """v <- v - (1 - beta) delta² sign(v - delta²)."""
    return second_P - square_P * (1.0 - beta) * torch.sign(second_P - square_P)


_Step = Callable[[str, Tensor, Mapping[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]


def _combine(updates: Sequence[TypeUpdate], server: ServerRound, *, step: _Step) -> Combined:
    """Let the server's optimiser make a step with FedAvg's mean of every tensor."""
    change: dict[str, Tensor] = {}
    state = dict(server.state)
    for key, delta_P in fedavg(updates, server).change.items():
        change[key], kept = step(key, delta_P, server.state)
        state |= kept
    return Combined(change, state=state)
