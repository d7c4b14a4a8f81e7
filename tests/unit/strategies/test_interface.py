"""What the round loop lends to a method: hooks around local steps, weights, single updates, tensors of every kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from heterotune.adapters.bank import stack_clients
from heterotune.adapters.layout import AdapterLayout, TensorSpec
from heterotune.aggregation.exact import ExactSum
from heterotune.client_store import ClientStore
from heterotune.collective.single import SingleChannel
from heterotune.config.method_options import LocalConfig
from heterotune.fleet.chunks import Chunk
from heterotune.fleet.clients import Client
from heterotune.privacy.gaussian_mechanism import add_noise, noise
from heterotune.round_plan import RoundPlan
from heterotune.server import GlobalAdapters
from heterotune.single_updates import KeptUpdates, gather_each
from heterotune.topology import CohortCounts
from heterotune.training.local import train_chunk
from heterotune.training.local_rule import LocalRule
from heterotune.training.optimizers import ChunkOptimizer

LAYOUT = AdapterLayout(
    "a",
    (
        TensorSpec("frozen", (3,), "constant", "type/a/frozen", "g.constant", "0", "kaiming", trains=False),
        TensorSpec("own", (2,), "client", "", "g.own", "0", trains=False),
        TensorSpec("state", (2,), "type", "type/a/state", "g.state", "0", trains=False),
        TensorSpec("w", (4,), "type", "type/a/w", "g.trained", "0", "ones"),
    ),
)
EMPTY = AdapterLayout("a", (TensorSpec("own", (2,), "client", "", "g.own", "0"),))
CLIENTS = (Client(3, 0, 10), Client(7, 0, 30))


def bank():
    adapters = GlobalAdapters([LAYOUT], run_seed=2)
    own = [{"own": torch.full((2,), float(number))} for number in range(2)]
    return stack_clients(LAYOUT, adapters.shared, own, device=torch.device("cpu"), head_frame=None)


def test_constants_are_drawn_by_everybody_and_never_travel():
    adapters, again = GlobalAdapters([LAYOUT], run_seed=2), GlobalAdapters([LAYOUT], run_seed=2)
    assert set(adapters.values) == {"type/a/state", "type/a/w"} and set(adapters.constants) == {"type/a/frozen"}
    assert torch.equal(adapters.constants["type/a/frozen"], again.constants["type/a/frozen"])
    assert not torch.equal(
        adapters.constants["type/a/frozen"], GlobalAdapters([LAYOUT], run_seed=3).constants["type/a/frozen"]
    )
    assert adapters.of_model_type(0).keys() == {"frozen", "state", "w"}
    assert {group for _, group in adapters.messages("fp32", 0)} == {"g.state", "g.trained"}
    adapters.receive(adapters.messages("fp32", 0))
    assert torch.equal(adapters.constants["type/a/frozen"], again.constants["type/a/frozen"])
    assert adapters.sha256() == again.sha256()


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
def test_what_does_not_train_stays_under_every_optimizer(optimizer):
    local = LocalConfig(steps=3, optimizer=optimizer, weight_decay=0.1, learning_rate=0.1, clip_norm=1.0)
    made = bank()
    optimizer = ChunkOptimizer(LAYOUT, made.values_KP, local, (3, 3))
    assert [made[spec.name].requires_grad for spec in LAYOUT.tensors] == [spec.trains for spec in LAYOUT.tensors]
    for _ in range(3):
        made.zero_grad()
        made["w"].square().sum().backward()
        optimizer.step(made.grads_KP)
    moved = (made.values_KP != made.start_KP).any(dim=0)
    assert moved.tolist() == [LAYOUT.columns["w"].start <= column for column in range(LAYOUT.num_columns)]


class Attached:
    """An adapter on no model."""

    def use(self, made):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *ended):
        return False


def test_the_hooks_of_local_training_come_in_order_and_see_the_rates():
    seen = []

    def objective(backbone, made, batch):
        seen.append(("objective", batch))
        return made["w"].sum(dim=1)

    def loss_term(made, start_KP):
        seen.append(("term", bool(torch.equal(start_KP, made.start_KP))))
        return 2.0 * made["w"].sum(dim=1)

    def after_step(made, rate_K1):
        seen.append(("after", rate_K1.flatten().tolist()))

    def finish(made, rate_sum_K1):
        seen.append(("finish", rate_sum_K1.flatten().tolist()))
        made.values_KP[:, LAYOUT.columns["state"]] += 5.0
        made.values_KP[:, LAYOUT.columns["own"]] += 1.0

    rule = LocalRule(objective, loss_term, after_step, finish)
    local = LocalConfig(steps=2, optimizer="sgd", learning_rate=0.5, clip_norm=None)
    trained = train_chunk(None, Attached(), bank(), Chunk(0, CLIENTS, (2, 1)), [0, 1], local, rule)
    assert seen == [
        ("objective", 0),
        ("term", True),
        ("after", [0.5, 0.5]),
        ("objective", 1),
        ("term", True),
        ("after", [0.5, 0.0]),
        ("finish", [1.0, 0.5]),
    ]
    assert trained.update_KP[:, LAYOUT.columns["w"]].tolist() == [[-3.0] * 4, [-1.5] * 4]  # gradient 1 + 2
    assert trained.update_KP[:, LAYOUT.columns["state"]].tolist() == [[5.0, 5.0]] * 2
    assert trained.values_KP[:, LAYOUT.columns["own"]].tolist() == [[1.0, 1.0], [2.0, 2.0]]
    assert trained.loss_K.tolist() == [(4.0 - 2.0) / 2, 4.0]  # without the term; the sum of w before each own step
    assert trained.square_K.tolist() == [(16.0 + 4.0) / 2, 16.0]


def test_a_clients_own_state_is_kept_between_rounds(tmp_path):
    store = ClientStore(tmp_path / "clients", run_seed=2)
    assert store.load(7, LAYOUT)["own"].tolist() == [0.0, 0.0]
    values_P = torch.arange(float(LAYOUT.num_columns))
    store.save(7, LAYOUT, values_P)
    assert torch.equal(store.load(7, LAYOUT)["own"], values_P[LAYOUT.columns["own"]])
    assert store.load(3, LAYOUT)["own"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("weighting", "shares", "weight"), [("rows", [0.25, 0.75], 40), ("clients", [0.5, 0.5], 2)])
def test_what_clients_weigh(weighting, shares, weight):
    chunk = Chunk(0, CLIENTS, (1, 1))
    plan = RoundPlan(1, (chunk,), ((chunk,),), {}, weighting)
    assert plan.weights_of(CLIENTS).tolist() == shares and plan.weight == {0: weight}


def test_single_updates_come_with_their_exact_mean_in_client_order():
    sent_KP = torch.randn(2, LAYOUT.num_travelling, generator=torch.Generator().manual_seed(0))
    kept = KeptUpdates()
    kept.add(sent_KP[1:], torch.zeros(1), [7])
    kept.add(sent_KP[:1], torch.zeros(1), [3])
    counts = CohortCounts({0: 2}, {0: 40})
    [update] = gather_each({0: kept}, [LAYOUT], counts, {3: 10, 7: 30}, SingleChannel())
    assert (update.model_type, update.weight, update.num_clients) == ("a", 40, 2)
    assert update.clients.client_ids == [3, 7] and torch.equal(update.clients.update_KP, sent_KP)
    assert update.clients.share_K.tolist() == [0.25, 0.75]
    exact = ExactSum(LAYOUT.num_travelling)
    exact.add(sent_KP, torch.tensor([0.25, 0.75], dtype=torch.float64), [3, 7])
    mean_P = exact.to_float64()
    for spec in LAYOUT.travelling:
        assert torch.equal(update.mean[spec.key], mean_P[LAYOUT.travelling_columns[spec.name]])


def test_a_model_type_of_which_no_client_counts_is_left_out():
    counts = CohortCounts({0: 0}, {0: 0})
    assert gather_each({0: KeptUpdates()}, [LAYOUT], counts, {3: 10}, SingleChannel()) == []


def test_nothing_to_send_is_a_sum_of_nothing():
    exact = ExactSum(0)
    exact.add(torch.empty(2, 0), torch.tensor([0.25, 0.75], dtype=torch.float64), [3, 7])
    add_noise(exact, noise(EMPTY, {}, noise_multiplier=1.0, num_clients=2, run_seed=1, round_number=1))
    assert exact.finish(num_clients=2).numel() == 0
    kept = KeptUpdates()
    kept.add(torch.empty(2, 0), torch.zeros(2), [3, 7])
    assert len(kept.take()) == 2 * np.dtype("<i8").itemsize
