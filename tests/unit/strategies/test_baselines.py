"""The usual baselines against their formulas: what clients do locally, what the server does with the mean."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from heterotune.adapters.bank import stack_clients
from heterotune.adapters.control_variates import COMMON, OWN
from heterotune.config.fleet_options import FleetEntry
from heterotune.config.schema import RunConfig
from heterotune.fleet.model_types import read_model_types
from heterotune.server import GlobalAdapters
from heterotune.strategies import make_strategy
from heterotune.strategies.fedprox import proximal_term
from heterotune.strategies.strategy import ServerRound, TypeUpdate
from heterotune.training.local_rule import PLAIN

TINY = "random:hidden_size=8,intermediate_size=8,num_hidden_layers=1,num_attention_heads=1,vocab_size=32"
FLEET = read_model_types((FleetEntry(name="tiny", model=TINY, clients=4),))


def strategy_of(name, local=None, **options):
    run = {
        "name": "baselines",
        "rounds": 1,
        "fleet": [{"name": "tiny", "model": TINY, "clients": 4}],
        "data": {"source": "embedded:stdlib"},
        "local": local or {},
        name: {"adapter_rank": 2, "targets": ["q_proj"], **options},
    }
    return make_strategy(name, RunConfig.model_validate(run))


def bank_of(layout, num_clients=3, seed=0):
    """A bank whose clients' own tensors, and all values after the start, are drawn."""
    draw = torch.Generator().manual_seed(seed)
    shared = {spec.key: torch.randn(spec.shape, generator=draw) for spec in layout.tensors if spec.scope != "client"}
    personal = [
        {spec.name: torch.randn(spec.shape, generator=draw) for spec in layout.tensors if spec.scope == "client"}
        for _ in range(num_clients)
    ]
    return stack_clients(layout, shared, personal, device=torch.device("cpu"), head_frame=None)


def test_the_proximal_term_and_its_gradient():
    strategy = strategy_of("fedprox", mu=0.4)
    layout = strategy.layout(FLEET[0], FLEET)
    bank = bank_of(layout)
    moved_KP = torch.randn(bank.values_KP.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        bank.values_KP += moved_KP
    term_K = strategy.local_rule(layout, 1).loss_term(bank, bank.start_KP)
    torch.testing.assert_close(term_K, 0.2 * moved_KP.square().sum(dim=1))
    term_K.sum().backward()
    torch.testing.assert_close(bank.grads_KP, 0.4 * moved_KP)


def test_without_a_penalty_fedprox_is_fedavg():
    strategy = strategy_of("fedprox", mu=0.0)
    assert strategy.local_rule(strategy.layout(FLEET[0], FLEET), 1) is PLAIN


def test_the_proximal_term_is_of_trained_tensors_only():
    layout = strategy_of("scaffold").layout(FLEET[0], FLEET)
    bank = bank_of(layout)
    with torch.no_grad():
        bank[next(spec.name for spec in layout.tensors if not spec.trains)].add_(1.0)
    assert proximal_term(bank, bank.start_KP, mu=1.0).tolist() == [0.0, 0.0, 0.0]


def test_local_only_sends_nothing_and_keeps_all():
    strategy = strategy_of("local_only")
    layout = strategy.layout(FLEET[0], FLEET)
    assert layout.num_travelling == 0 and layout.group_columns == {}
    assert {spec.scope for spec in layout.tensors} == {"client"} and all(spec.trains for spec in layout.tensors)


def test_ffa_lora_trains_and_sends_u_alone():
    layout = strategy_of("ffa_lora").layout(FLEET[0], FLEET)
    assert {(spec.name[-1], spec.scope, spec.trains) for spec in layout.tensors} == {
        ("U", "type", True),
        ("V", "constant", False),
    }
    adapters = GlobalAdapters([layout], run_seed=3)
    plain = GlobalAdapters([strategy_of("fedavg_lora").layout(FLEET[0], FLEET)], run_seed=3)
    assert sum(value.numel() for value in adapters.values.values()) == layout.num_travelling == 8 * 2
    for key, value in adapters.constants.items():
        assert torch.equal(value, plain.values[key]) and value.std() > 0.01  # those that FedAvg begins with


def test_the_gradient_of_a_constant_is_neither_taken_nor_stepped():
    layout = strategy_of("ffa_lora").layout(FLEET[0], FLEET)
    bank = bank_of(layout)
    assert [bank[spec.name].requires_grad for spec in layout.tensors] == [spec.trains for spec in layout.tensors]


def scaffold_columns(layout):
    names = [spec.name for spec in layout.tensors if spec.trains]
    return [[layout.columns[prefix + name] for name in names] for prefix in ("", COMMON, OWN)]


def test_scaffold_corrects_every_step_and_renews_the_control_variates():
    strategy = strategy_of("scaffold", {"optimizer": "sgd"})
    layout = strategy.layout(FLEET[0], FLEET)
    rule, bank = strategy.local_rule(layout, 1), bank_of(layout)
    trained, common, own = scaffold_columns(layout)
    before_KP = bank.start_KP.clone()
    rates = [torch.tensor([[0.1], [0.2], [0.0]]), torch.tensor([[0.3], [0.0], [0.5]])]
    steps_KP = torch.randn(bank.values_KP.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for rate_K1 in rates:
            for columns in trained:
                bank.values_KP[:, columns] += steps_KP[:, columns]
            rule.after_step(bank, rate_K1)
        rule.finish(bank, sum(rates))
    rate_sum_K1 = sum(rates)
    for at, at_common, at_own in zip(trained, common, own, strict=True):
        c, c_k = before_KP[:, at_common], before_KP[:, at_own]
        theta_k = before_KP[:, at] + 2 * steps_KP[:, at] - rate_sum_K1 * (c - c_k)
        torch.testing.assert_close(bank.values_KP[:, at], theta_k)
        renewed = c_k - c + (before_KP[:, at] - theta_k) / rate_sum_K1
        torch.testing.assert_close(bank.values_KP[:, at_own], renewed)
        torch.testing.assert_close(bank.values_KP[:, at_common] - before_KP[:, at_common], renewed - c_k)


def test_after_one_sgd_step_a_control_variate_is_the_gradient():
    """With c = c_k = 0 and plain SGD, c_k+ = (theta - theta_k) / rate is the client's gradient."""
    strategy = strategy_of("scaffold", {"optimizer": "sgd"})
    layout = strategy.layout(FLEET[0], FLEET)
    adapters = GlobalAdapters([layout], run_seed=1)
    own = {spec.name: torch.zeros(spec.shape) for spec in layout.tensors if spec.scope == "client"}
    bank = stack_clients(layout, adapters.shared, [own], device=torch.device("cpu"), head_frame=None)
    rule, rate_K1 = strategy.local_rule(layout, 1), torch.tensor([[0.25]])
    trained, common, own_columns = scaffold_columns(layout)
    gradient_KP = torch.randn(bank.values_KP.shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for columns in trained:
            bank.values_KP[:, columns] -= rate_K1 * gradient_KP[:, columns]
        rule.after_step(bank, rate_K1)
        rule.finish(bank, rate_K1)
    for at, at_common, at_own in zip(trained, common, own_columns, strict=True):
        torch.testing.assert_close(bank.values_KP[:, at_own], gradient_KP[:, at], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(bank.values_KP[:, at_common], gradient_KP[:, at], rtol=1e-5, atol=1e-5)


def test_scaffolds_server_moves_c_by_the_cohorts_share():
    strategy = strategy_of("scaffold", {"optimizer": "sgd"}, server_learning_rate=0.5)
    layout = strategy.layout(FLEET[0], FLEET)
    mean = {spec.key: torch.full((spec.num_elements,), 2.0, dtype=torch.float64) for spec in layout.travelling}
    server = ServerRound(num_enlisted={"tiny": 4})
    change = strategy.combine([TypeUpdate("tiny", 3, mean, num_clients=3)], server).change
    for key, change_P in change.items():
        assert set(change_P.tolist()) == {1.5 if key.startswith(COMMON) else 1.0}
    assert strategy.weights == "clients"


@pytest.mark.parametrize(("optimizer", "warned"), [("sgd", False), ("momentum", True), ("adamw", True)])
def test_scaffold_says_that_it_is_formal_under_other_optimizers(optimizer, warned):
    told = strategy_of("scaffold", {"optimizer": optimizer}).warnings
    assert bool(told) == warned and all(f"optimizer = {optimizer}" in text and "formal" in text for text in told)


def expected_steps(name, deltas):
    """Reddi et al., algorithm 2, in plain numbers: what is added in each round."""
    beta1, beta2, rate, tau = 0.9, 0.99, 1e-3, 1e-3
    if name == "fedadagrad":
        beta1 = 0.0
    m, v, added = 0.0, tau**2, []
    for number, delta in enumerate(deltas):
        if name == "fedavgm":
            m = delta if number == 0 else 0.9 * m + 0.1 * delta
            added.append(m)
            continue
        m = beta1 * m + (1 - beta1) * delta
        if name == "fedadagrad":
            v = v + delta**2
        elif name == "fedadam":
            v = beta2 * v + (1 - beta2) * delta**2
        else:
            v = v - (1 - beta2) * delta**2 * math.copysign(1.0, v - delta**2) * (v != delta**2)
        added.append(rate * m / (math.sqrt(v) + tau))
    return added


@pytest.mark.parametrize("name", ["fedavgm", "fedadagrad", "fedadam", "fedyogi"])
def test_the_servers_optimiser_follows_its_formula(name):
    strategy = strategy_of(name)
    deltas = np.random.default_rng(4).normal(size=(6, 5)) * np.array([1e-4, 1e-3, 0.1, 1.0, 0.0])
    state, found = {}, []
    for delta in deltas:
        update = TypeUpdate("tiny", 7, {"type/tiny/w": torch.from_numpy(delta)})
        combined = strategy.combine([update], ServerRound(state=state))
        state = combined.state
        found.append(combined.change["type/tiny/w"].numpy())
    wanted = np.array([expected_steps(name, deltas[:, column]) for column in range(5)]).T
    np.testing.assert_allclose(np.array(found), wanted, rtol=1e-12)
    assert strategy.weights == ("rows" if name == "fedavgm" else "clients")


@pytest.mark.parametrize("name", ["fedavgm", "fedadam"])
def test_a_missing_model_type_keeps_its_state_at_the_server(name):
    strategy = strategy_of(name)
    updates = [TypeUpdate(t, 1, {f"type/{t}/w": torch.ones(2, dtype=torch.float64)}) for t in ("a", "b")]
    first = strategy.combine(updates, ServerRound())
    second = strategy.combine(updates[:1], ServerRound(state=first.state))
    assert set(second.change) == {"type/a/w"}
    assert torch.equal(second.state["m/type/b/w"], first.state["m/type/b/w"])


def test_without_momentum_fedavgm_is_fedavg():
    delta = torch.randn(9, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    strategy = strategy_of("fedavgm", momentum=0.0)
    state = {}
    for factor in (1.0, -2.0):
        combined = strategy.combine([TypeUpdate("tiny", 1, {"w": delta * factor})], ServerRound(state=state))
        assert torch.equal(combined.change["w"], delta * factor)
        state = combined.state
