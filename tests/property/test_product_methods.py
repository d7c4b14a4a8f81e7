"""Methods that combine LoRA as products or as parts of common tensors, against their formulas in NumPy, dense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heterotune.adapters.layout import Branch
from heterotune.config.fleet_options import FleetEntry
from heterotune.config.schema import RunConfig
from heterotune.fleet.model_types import ModelType, read_model_types
from heterotune.server import GlobalAdapters
from heterotune.strategies import make_strategy
from heterotune.strategies.strategy import ClientUpdates, Combined, ServerRound, Strategy, TypeUpdate, fedavg

MODEL = "random:hidden_size=8,intermediate_size=10,num_attention_heads=2,vocab_size=97"
WINDOWED = ("hetlora", "heterofl", "fedrolex")
FULL = {"a": 8, "a-low": 9, "b": 6}
"""Ranks that any matrix of these models has room in."""
UNEQUAL = {"a": 4, "a-low": 2, "b": 3}
SEEDS = given(seed=st.integers(0, 10**6))
FEW = settings(max_examples=5)


@cache
def fleet_of(*ranks: int) -> tuple[ModelType, ...]:
    """Siblings of unequal depth and rank, and a model of another width."""
    a, low, b = ranks
    narrow = MODEL.replace("hidden_size=8", "hidden_size=4")
    entries = (
        FleetEntry(name="a", model=f"{MODEL},num_hidden_layers=2", clients=3, adapter_rank=a),
        FleetEntry(
            name="a-low",
            model=f"{MODEL},num_hidden_layers=1",
            clients=2,
            adapter_rank=low,
            siblings_of="a",
            layers=(1,),
        ),
        FleetEntry(name="b", model=f"{narrow},num_hidden_layers=1", clients=2, adapter_rank=b),
    )
    return read_model_types(entries)


@dataclass
class Round:
    """A method's server after a round of random updates."""

    strategy: Strategy
    server: ServerRound
    updates: list[TypeUpdate]

    @cached_property
    def combined(self) -> Combined:
        return self.strategy.combine(self.updates, self.server)

    def after(self, update: TypeUpdate, name: str) -> np.ndarray:
        """A tensor of each client after training, (K, ...)."""
        layout = self.server.layouts[update.model_type]
        spec = next(spec for spec in layout.tensors if spec.name == name)
        value = self.server.values[spec.key].double().numpy()
        if spec.window is not None:
            value = value.ravel()[spec.window.places(spec.shape, self.server.round_number)].reshape(spec.shape)
        rows = update.clients.update_KP[:, layout.travelling_columns[name]].double().numpy()
        return value + rows.reshape(-1, *spec.shape)

    def products(self, update: TypeUpdate, branch: Branch) -> np.ndarray:
        """s U_k V_k of each client, (K, d_out, d_in)."""
        return branch.scale * self.after(update, branch.up) @ self.after(update, branch.down)

    def sites(self) -> Mapping[str, list[tuple[TypeUpdate, Branch]]]:
        """Site -> the model types of the round that have it."""
        found: dict[str, list[tuple[TypeUpdate, Branch]]] = {}
        for update in self.updates:
            for branch in self.server.layouts[update.model_type].branches:
                found.setdefault(branch.site, []).append((update, branch))
        return found

    def new_value(self, key: str) -> np.ndarray:
        value = self.server.values[key].double()
        return (value + self.combined.change[key].view(value.shape)).numpy()

    def new_product(self, model_type: str, site: str) -> np.ndarray:
        layout = self.server.layouts[model_type]
        branch = next(branch for branch in layout.branches if branch.site == site)
        keys = {spec.name: spec.key for spec in layout.tensors}
        return branch.scale * self.new_value(keys[branch.up]) @ self.new_value(keys[branch.down])


def random_round(
    name: str, seed: int, ranks: Mapping[str, int] = UNEQUAL, present=("a", "a-low", "b"), round_number=1, **options
) -> Round:
    run = {
        "name": "products",
        "rounds": 1,
        "fleet": [{"name": "a", "model": MODEL, "clients": 1}],
        "data": {"source": "embedded:stdlib"},
        name: options,
    }
    fleet, strategy = fleet_of(*ranks.values()), make_strategy(name, RunConfig.model_validate(run))
    layouts = [strategy.layout(model_type, fleet) for model_type in fleet]
    adapters, draw = GlobalAdapters(layouts, run_seed=seed), torch.Generator().manual_seed(seed)
    adapters.apply({key: torch.randn(value.numel(), generator=draw).double() for key, value in adapters.values.items()})
    adapters.begin_round(round_number)
    updates = []
    for model_type, layout in zip(fleet, layouts, strict=True):
        if model_type.name in present:
            update_KP = torch.randn(model_type.num_clients, layout.num_travelling, generator=draw)
            updates.append(type_update(layout, update_KP, weight=10 + 7 * model_type.index))
    server = ServerRound(
        round_number, seed, {layout.model_type: layout for layout in layouts}, adapters.tensors, adapters.values
    )
    return Round(strategy, server, updates)


def type_update(layout, update_KP: torch.Tensor, weight: int) -> TypeUpdate:
    """Clients whose shares are 1 : 2 : ..., with their mean."""
    share_K = torch.arange(1, len(update_KP) + 1, dtype=torch.float64)
    share_K /= share_K.sum()
    mean_P = share_K @ update_KP.double()
    mean = {spec.key: mean_P[layout.travelling_columns[spec.name]] for spec in layout.travelling}
    clients = ClientUpdates(range(len(update_KP)), share_K, update_KP)
    return TypeUpdate(layout.model_type, weight, mean, len(update_KP), clients)


def mean_product(found: Round, members) -> np.ndarray:
    """Σ p_k s_k U_k V_k over all clients at a site."""
    weights = [update.weight * update.clients.share_K.numpy() for update, _ in members]
    total = sum(weight.sum() for weight in weights)
    return sum(
        np.einsum("k,koi->oi", weight / total, found.products(*member))
        for weight, member in zip(weights, members, strict=True)
    )


@SEEDS
@FEW
def test_flora_adds_the_mean_of_products(seed):
    found = random_round("flora", seed)
    assert not found.combined.change
    for update in found.updates:
        layout = found.server.layouts[update.model_type]
        keys = {site.module: site.key for site in layout.base}
        for branch in layout.branches:
            up, down = found.combined.base[keys[branch.module]]
            wanted = mean_product(found, [(update, branch)])
            np.testing.assert_allclose((up @ down).numpy(), wanted, atol=1e-6)
    assert len(found.combined.base) == 7 * (2 + 1 + 1)


@SEEDS
@FEW
def test_fedex_is_exact(seed):
    found = random_round("fedex_lora", seed)
    for update in found.updates:
        layout = found.server.layouts[update.model_type]
        keys = {site.module: site.key for site in layout.base}
        for branch in layout.branches:
            up, down = found.combined.base[keys[branch.module]]
            new = found.new_product(update.model_type, branch.site) + (up @ down).numpy()
            np.testing.assert_allclose(new, mean_product(found, [(update, branch)]), atol=1e-6)


def test_fedex_of_one_client_sends_no_factors():
    found = random_round("fedex_lora", 3)
    layout = found.server.layouts["b"]
    alone = type_update(layout, found.updates[2].clients.update_KP[:1], 5)
    combined = found.strategy.combine([alone], found.server)
    assert not combined.base and combined.metrics[0]["value"] == 0
    assert combined.change.keys() == alone.mean.keys()


@SEEDS
@FEW
def test_flexlora_of_full_rank_is_the_mean_of_products_for_all_siblings(seed):
    found = random_round("flexlora", seed, FULL)
    for site, members in found.sites().items():
        wanted = mean_product(found, members)
        for update, _ in members:
            np.testing.assert_allclose(found.new_product(update.model_type, site), wanted, atol=1e-6)
    assert all(entry["value"] < 1e-6 for entry in found.combined.metrics)


@SEEDS
@FEW
def test_flexlora_cuts_to_each_types_rank(seed):
    found = random_round("flexlora", seed, present=("a",))
    lost = {"a": 0.0, "a-low": 0.0}
    whole = dict(lost)
    for site, members in found.sites().items():
        left, values, right = np.linalg.svd(mean_product(found, members))
        for name in lost:  # siblings without clients in the round get it, too
            if name == "a-low" and "layers.1" not in site:
                continue
            rank = UNEQUAL[name]
            wanted = left[:, :rank] * values[:rank] @ right[:rank]
            np.testing.assert_allclose(found.new_product(name, site), wanted, atol=1e-6)
            lost[name] += (values[rank:] ** 2).sum()
            whole[name] += (values**2).sum()
    errors = {entry["model_type"]: entry["value"] for entry in found.combined.metrics}
    assert errors.keys() == lost.keys()
    for name, error in errors.items():
        np.testing.assert_allclose(error, np.sqrt(lost[name] / whole[name]), rtol=1e-9)


def test_flexlora_leaves_a_product_of_nothing_alone():
    found = random_round("flexlora", 1)
    layout = found.server.layouts["b"]
    ups = {branch.up for branch in layout.branches}
    zero = {spec.key: torch.zeros(spec.shape) for spec in layout.tensors if spec.name in ups}
    still = type_update(layout, torch.zeros(2, layout.num_travelling), 5)
    server = replace(found.server, values=found.server.values | zero)
    assert not found.strategy.combine([still], server).change


@pytest.mark.parametrize("weights", ["size", "sparsity"])
@SEEDS
@FEW
def test_hetlora_pads_with_zeros(weights, seed):
    found = random_round("hetlora", seed, weights=weights)
    missed = whole = 0.0
    for members in found.sites().values():
        weight_of = [
            np.linalg.norm(found.products(update, branch) / branch.scale, axis=(1, 2))
            if weights == "sparsity"
            else update.weight * update.clients.share_K.numpy()
            for update, branch in members
        ]
        total = sum(weight.sum() for weight in weight_of)
        rank = max(found.after(update, branch.down).shape[1] for update, branch in members)
        up = down = product = 0.0
        for (update, branch), weight in zip(members, weight_of, strict=True):
            ups, downs = found.after(update, branch.up), found.after(update, branch.down)
            short = rank - downs.shape[1]
            up = up + np.einsum("k,kor->or", weight / total, np.pad(ups, ((0, 0), (0, 0), (0, short))))
            down = down + np.einsum("k,kri->ri", weight / total, np.pad(downs, ((0, 0), (0, short), (0, 0))))
            product = product + np.einsum("k,koi->oi", weight / total, ups @ downs)
        update, branch = members[0]
        keys = {spec.name: spec.key for spec in found.server.layouts[update.model_type].tensors}
        np.testing.assert_allclose(found.new_value(keys[branch.up])[:, :rank], up, atol=1e-9)
        np.testing.assert_allclose(found.new_value(keys[branch.down])[:rank], down, atol=1e-9)
        missed, whole = missed + ((up @ down - product) ** 2).sum(), whole + (product**2).sum()
    error = next(entry["value"] for entry in found.combined.metrics if entry["name"] == "product/padding_error")
    np.testing.assert_allclose(error, np.sqrt(missed / whole), rtol=1e-9)


@pytest.mark.parametrize("name", WINDOWED)
@SEEDS
@FEW
def test_equal_ranks_are_fedavg(name, seed):
    options = {"weights": "size"} if name == "hetlora" else {}
    found = random_round(name, seed, {"a": 3, "a-low": 3, "b": 3}, **options)
    change, wanted = found.combined.change, fedavg(found.updates, found.server).change
    assert change.keys() == wanted.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(change[key], value, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", ["heterofl", "fedrolex"])
@pytest.mark.parametrize("share", ["rank", "width"])
@SEEDS
@FEW
def test_an_element_is_averaged_over_those_that_hold_it(name, share, seed):
    options = {"share": share} if name == "heterofl" else {}
    found = random_round(name, seed, round_number=1 + seed % 7, **options)
    for key, change in found.combined.change.items():
        total, weight = np.zeros(len(change)), np.zeros(len(change))
        for update in found.updates:
            for spec in found.server.layouts[update.model_type].tensors:
                if spec.key == key:
                    places = spec.window.places(spec.shape, found.server.round_number)
                    total[places] += update.weight * update.mean[key].numpy()
                    weight[places] += update.weight
        wanted = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
        np.testing.assert_allclose(change.numpy(), wanted, atol=1e-12)


@pytest.mark.parametrize("name", WINDOWED)
def test_what_nobody_covers_stays(name):
    found = random_round(name, 5, present=("a-low",))
    metrics = {entry["name"]: entry["value"] for entry in found.combined.metrics}
    assert metrics["coverage/share"] == 0.5 and metrics["coverage/least_clients"] == 0
    for key, change in found.combined.change.items():
        whole = change.view(found.server.values[key].shape)
        outside, inside = (whole[:, 2:], whole[:, :2]) if key.endswith("U") else (whole[2:], whole[:2])
        assert (outside == 0).all() and (inside != 0).all()


@given(st.data())
@settings(max_examples=20)
def test_a_rolling_window_covers_every_component_alike_in_one_cycle(data):
    full = data.draw(st.integers(1, 6))
    rank = data.draw(st.integers(1, full))
    found = random_round("fedrolex", 0, {"a": full, "a-low": rank, "b": 1})
    (update,) = [update for update in found.updates if update.model_type == "a-low"]
    ones = replace(update, mean={key: torch.ones_like(value) for key, value in update.mean.items()})
    total: dict[str, torch.Tensor] = {}
    for round_number in range(1, full + 1):
        change = found.strategy.combine([ones], replace(found.server, round_number=round_number)).change
        total = {key: total.get(key, 0) + value for key, value in change.items()}
    assert total and all((value == rank).all() for value in total.values())


@pytest.mark.parametrize("name", ["flora", "fedex_lora", "flexlora", "hetlora"])
def test_alike_clients_are_as_one(name):
    found = random_round(name, 2)
    alike, alone = [], []
    for update in found.updates:
        layout = found.server.layouts[update.model_type]
        row = update.clients.update_KP[:1]
        alike.append(type_update(layout, row.repeat(3, 1), update.weight))
        alone.append(type_update(layout, row, update.weight))
    # Where norms weigh, three alike weigh three times as much as one, so only one model type may meet itself.
    pairs = [(alike[:1], alone[:1]), (alike[2:], alone[2:])] if name == "hetlora" else [(alike, alone)]
    for many, one in pairs:
        first, second = (Round(found.strategy, found.server, updates) for updates in (many, one))
        for update in one:
            layout = found.server.layouts[update.model_type]
            for branch in layout.branches:
                np.testing.assert_allclose(
                    whole_change(first, update.model_type, branch),
                    whole_change(second, update.model_type, branch),
                    atol=1e-9,
                )


def whole_change(found: Round, model_type: str, branch: Branch) -> np.ndarray:
    """What a site computes after the round, beside its frozen weight."""
    layout, combined = found.server.layouts[model_type], found.combined
    keys = {site.module: site.key for site in layout.base}
    base = combined.base.get(keys.get(branch.module, ""))
    of_base = 0.0 if base is None else (base[0] @ base[1]).numpy()
    return of_base if not combined.change else of_base + found.new_product(model_type, branch.site)


@pytest.mark.parametrize("name", ["flexlora", "hetlora"])
def test_what_the_wire_rounded_off_is_not_added_again(name):
    found = random_round(name, 4)
    own = {key: value + 0.25 for key, value in found.server.values.items()}
    rounded = found.strategy.combine(found.updates, replace(found.server, own=own))
    for key, change in rounded.change.items():
        torch.testing.assert_close(change + 0.25, found.combined.change[key], atol=1e-6, rtol=0)
