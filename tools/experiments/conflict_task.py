"""A federated task whose model types disagree by construction, small enough for thousands of rounds.

Clients fit softmax regression, one matrix that all types share. Inputs lie around one point for each class; a type that
is *opposed* names two of the classes the wrong way round, so what serves it there hurts the others, while both gain on
the other classes. A *drawn* type names all classes in an order of its own. Updates go through heterotune's combine
function.

Legend: K clients, n rows of each, D inputs, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from heterotune.adapters.layout import AdapterLayout, TensorSpec
from heterotune.config.heterotune_options import HeterotuneOptions
from heterotune.randomness import NO_CLIENT, NO_ROUND, generator
from heterotune.strategies.heterotune import combine_aligned
from heterotune.strategies.strategy import ClientUpdates, ServerRound, TypeUpdate

NUM_INPUTS, NUM_CLASSES = 16, 6
ROWS_OF_CLIENT, TEST_ROWS = 96, 600
NOISE = 0.6  # of inputs around the point of their class, whose length is 1
KEY = "fleet/head.C"


@dataclass(frozen=True)
class Setting:
    """Who takes part, and how long.

    Attributes:
        name: In tables.
        clients: Clients of each model type; all have as many rows.
        kinds: For each type how it names classes: "plain", "opposed" or "drawn".
        rounds: Federation rounds.
        local_steps: Full-batch gradient steps of a client in a round.
        learning_rate: Of these.
    """

    name: str
    clients: tuple[int, ...]
    kinds: tuple[str, ...]
    rounds: int
    local_steps: int
    learning_rate: float


@dataclass(frozen=True)
class Outcome:
    """What a run ends with, a number for each type on test rows; and what happened on the way.

    Attributes:
        losses: Nats a row.
        accuracies: Shares.
        num_hurt: Rounds in which some type's loss on its clients' rows rose.
        weights: The final matrix, (D, C).
    """

    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    num_hurt: int
    weights: Tensor


def run(setting: Setting, options: HeterotuneOptions, seed: int) -> Outcome:
    """Run the federation from zeros."""
    names = [f"t{index}" for index in range(len(setting.kinds))]
    layouts = {name: _layout(name) for name in names}
    tensors = {KEY: layouts[names[0]].tensors[0]}
    maps = [label_map(kind, index, seed) for index, kind in enumerate(setting.kinds)]
    rows = [
        draw_rows(of_type, number, f"type {index}", seed)
        for index, (of_type, number) in enumerate(zip(maps, setting.clients, strict=True))
    ]
    value_DC, state, num_hurt = torch.zeros(NUM_INPUTS, NUM_CLASSES), {}, 0
    before = _losses(value_DC, rows)
    for round_number in range(1, setting.rounds + 1):
        updates = [_update(name, value_DC, *each, setting) for name, each in zip(names, rows, strict=True)]
        server = ServerRound(round_number, seed, layouts, tensors, {KEY: value_DC.flatten()}, state=state)
        combined = combine_aligned(updates, server, options=options)
        state = combined.state
        value_DC = (value_DC.double() + combined.change[KEY].view_as(value_DC)).float()
        after = _losses(value_DC, rows)
        num_hurt += any(new > old for new, old in zip(after, before, strict=True))
        before = after
    tests = [draw_rows(of_type, 1, f"test {index}", seed, TEST_ROWS) for index, of_type in enumerate(maps)]
    accuracies = [((x @ value_DC).argmax(-1) == y).float().mean().item() for x, y in tests]
    return Outcome(tuple(_losses(value_DC, tests)), tuple(accuracies), num_hurt, value_DC)


def _layout(name: str) -> AdapterLayout:
    shape = (NUM_INPUTS, NUM_CLASSES)
    return AdapterLayout(name, (TensorSpec("head.C", shape, "fleet", KEY, "dema.head", "head"),))


def label_map(kind: str, index: int, seed: int) -> Tensor:
    """Return what a type calls each class."""
    if kind == "drawn":
        draw = generator(seed, NO_ROUND, NO_CLIENT, f"label map {index}")
        return torch.from_numpy(draw.permutation(NUM_CLASSES))
    first = [1, 0] if kind == "opposed" else [0, 1]
    return torch.tensor([*first, *range(2, NUM_CLASSES)])


def draw_rows(
    called_C: Tensor, num_clients: int, purpose: str, seed: int, num_rows: int = ROWS_OF_CLIENT
) -> tuple[Tensor, Tensor]:
    """Return inputs (K, n, D) and what the type calls their classes (K, n)."""
    draw = generator(seed, NO_ROUND, NO_CLIENT, f"conflict rows of {purpose}")
    class_Kn = torch.from_numpy(draw.integers(NUM_CLASSES, size=(num_clients, num_rows)))
    noise_KnD = torch.from_numpy(draw.standard_normal((num_clients, num_rows, NUM_INPUTS)))
    input_KnD = torch.eye(NUM_CLASSES, NUM_INPUTS)[class_Kn] + NOISE * noise_KnD.float()
    return input_KnD, called_C[class_Kn]


def _losses(value_DC: Tensor, rows: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
    return [cross_entropy((x @ value_DC).flatten(0, 1), y.flatten()).item() for x, y in rows]


def _update(name: str, value_DC: Tensor, input_KnD: Tensor, label_Kn: Tensor, setting: Setting) -> TypeUpdate:
    """Train a type's clients side by side and return their mean update."""
    value_KDC = value_DC.expand(len(input_KnD), *value_DC.shape).clone()
    target_KnC = torch.nn.functional.one_hot(label_Kn, NUM_CLASSES).float()
    for _ in range(setting.local_steps):
        error_KnC = (input_KnD @ value_KDC).softmax(-1) - target_KnC
        value_KDC -= setting.learning_rate / ROWS_OF_CLIENT * (input_KnD.mT @ error_KnC)
    sent_KP = (value_KDC - value_DC).flatten(1)
    num_clients = len(sent_KP)
    share_K = torch.full((num_clients,), 1.0 / num_clients, dtype=torch.float64)
    first_id = 1000 * int(name[1:])
    clients = ClientUpdates(range(first_id, first_id + num_clients), share_K, sent_KP)
    return TypeUpdate(name, num_clients * ROWS_OF_CLIENT, {KEY: share_K @ sent_KP.double()}, num_clients, clients)
