"""What every federated method keeps to, found by enumeration, so that a new one cannot escape.

Updates are made up and nothing is trained: a federation sums them exactly, `combine` makes the changes, the server
applies them. A method that cannot keep to a rule by design stands in `EXEMPT`, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import pytest
import torch

from heterotune.aggregation.exact import ExactSum
from heterotune.config.fleet_options import FleetEntry
from heterotune.config.methods import METHODS
from heterotune.config.schema import RunConfig
from heterotune.fleet.model_types import read_model_types
from heterotune.server import GlobalAdapters
from heterotune.strategies import make_strategy
from heterotune.strategies.strategy import ClientUpdates, ServerRound, TypeUpdate

SHAPE = "random:hidden_size=8,intermediate_size=12,num_attention_heads=2,vocab_size=16"
ENTRIES = (
    {"name": "a", "model": f"{SHAPE},num_hidden_layers=2", "clients": 3},
    {"name": "a-half", "model": f"{SHAPE},num_hidden_layers=1", "siblings_of": "a", "layers": [1], "clients": 2},
    {"name": "b", "model": f"{SHAPE},num_hidden_layers=1,seed=3", "clients": 2},
)
FLEET = read_model_types(tuple(FleetEntry(**entry) for entry in ENTRIES))
PLAIN = {"adapter_rank": 2, "targets": ["q_proj", "down_proj"]}
HEAD = {"head_rank": 4, "head_basis": 4}
CASES: dict[str, tuple[str, dict]] = {
    **{name: (name, {} if name == "fedavg_full" else PLAIN) for name in METHODS if name != "heterotune"},
    **{
        f"heterotune, {cmga}": ("heterotune", {**PLAIN, **HEAD, "cmga": cmga})
        for cmga in ("none", "project", "cagrad", "mgda", "gradvac", "aligned_mtl", "cosine")
    },
    **{
        f"heterotune, {cmga}, clients": ("heterotune", {**PLAIN, **HEAD, "cmga": cmga, "cmga_tasks": "clients"})
        for cmga in ("project", "cagrad", "mgda", "aligned_mtl", "cosine")
    },
}
"""Name -> method and options."""

OPTIMISER = "its server does not add the mean update: an optimiser's step depends on earlier rounds and on its own rate"
EXEMPT: dict[tuple[str, str], str] = {
    ("identity", "fedadagrad"): OPTIMISER,
    ("identity", "fedadam"): OPTIMISER,
    ("identity", "fedyogi"): OPTIMISER,
    ("identity", "flora"): "what clients send goes into the frozen weights, and LoRA begins anew",
    ("identity", "flexlora"): "it keeps products of U and V, and takes new factors from an SVD",
    ("identity", "fedproto"): "clients send what they have of each class, and a prototype is a ratio of such sums",
}
"""(rule, method) -> why the method cannot keep to it by design."""
TOLERANCE = {"rtol": 1e-5, "atol": 1e-7}


@dataclass
class World:
    """A method on the fleet, with made-up clients: client id -> model type, rows, update."""

    case: str
    config: RunConfig = field(init=False)

    def __post_init__(self) -> None:
        self.name, options = CASES[self.case]
        run = {"name": "rules", "rounds": 1, "fleet": list(ENTRIES), "data": {"source": "embedded:stdlib"}}
        self.config = RunConfig.model_validate({**run, "strategy": self.name, self.name: options})
        self.strategy = make_strategy(self.name, self.config)
        self.layouts = [self.strategy.layout(model_type, FLEET) for model_type in FLEET]
        self.adapters = GlobalAdapters(self.layouts, run_seed=5)

    def update(self, place: int, seed: int) -> torch.Tensor:
        """Return something that a client of a model type might send, float32."""
        draw = torch.Generator().manual_seed(seed)
        return 0.1 * torch.randn(self.layouts[place].num_travelling, generator=draw)

    def combine(self, clients: dict[int, tuple[int, int, torch.Tensor]], **server):
        """Return what the server makes of clients' updates, added up in the order in which they are given."""
        updates = []
        for place in sorted({place for place, _, _ in clients.values()}):
            mine = {client: (rows, sent) for client, (of, rows, sent) in clients.items() if of == place}
            updates.append(self._type_update(place, mine))
        enlisted = {entry["name"]: entry["clients"] for entry in ENTRIES} | server.pop("num_enlisted", {})
        return updates, self.strategy.combine(
            updates,
            ServerRound(
                run_seed=5,
                layouts={layout.model_type: layout for layout in self.layouts},
                tensors=self.adapters.tensors,
                values=self.adapters.values,
                num_enlisted=enlisted,
                **server,
            ),
        )

    def _type_update(self, place: int, clients: dict[int, tuple[int, torch.Tensor]]) -> TypeUpdate:
        layout = self.layouts[place]
        weight = {client: rows if self.strategy.weights == "rows" else 1 for client, (rows, _) in clients.items()}
        total, exact = sum(weight.values()), ExactSum(layout.num_travelling)
        for client, (_, sent) in clients.items():
            exact.add(sent[None], torch.tensor([weight[client] / total], dtype=torch.float64), [client])
        mean_P, order = exact.finish(num_clients=len(clients)), sorted(clients)
        each = ClientUpdates(
            order,
            torch.tensor([weight[client] / total for client in order], dtype=torch.float64),
            torch.stack([clients[client][1] for client in order]),
        )
        mean = {spec.key: mean_P[layout.travelling_columns[spec.name]] for spec in layout.travelling}
        needs_each = self.config.needs_of(self.name) == "single updates"
        return TypeUpdate(layout.model_type, total, mean, len(clients), each if needs_each else None)

    def applied(self, combined) -> dict[str, torch.Tensor]:
        """Return the common values after the change."""
        before = dict(self.adapters.values)
        self.adapters.apply(combined.change)
        after, self.adapters.values = self.adapters.values, before
        return dict(after) if after is not before else after


def everybody(world: World) -> dict[int, tuple[int, int, torch.Tensor]]:
    """Two or three clients of each model type, with different rows and updates."""
    places = [0, 0, 0, 1, 1, 2, 2]
    return {client: (place, 3 + 2 * client, world.update(place, client)) for client, place in enumerate(places)}


def is_exempt(rule: str, world: World) -> bool:
    return (rule, world.name) in EXEMPT


world_of = cache(World)


@pytest.fixture(params=CASES)
def world(request) -> World:
    return world_of(request.param)


def test_one_client_with_the_whole_weight_gives_its_own_values(world):
    """A federation of one client: what it sends is added to the common values as it is."""
    for place, layout in enumerate(world.layouts):
        sent = world.update(place, place)
        _, combined = world.combine({0: (place, 5, sent)}, num_enlisted={layout.model_type: 1})
        after, before = world.applied(combined), world.adapters.values
        moved = {
            spec.key: torch.allclose(
                after[spec.key].flatten(),
                before[spec.key].flatten() + sent[layout.travelling_columns[spec.name]],
                **TOLERANCE,
            )
            for spec in layout.travelling
        }
        assert all(moved.values()) != is_exempt("identity", world) or not moved
        others = after.keys() - moved.keys()
        assert is_exempt("identity", world) or all(torch.equal(after[key], before[key]) for key in others), (
            "not its own"
        )


def test_identical_clients_are_as_good_as_one(world):
    """Three clients of a model type that send the same, against one of them with the rows of all."""
    for place, layout in enumerate(world.layouts):
        sent = world.update(place, 10 + place)
        enlisted = {layout.model_type: 3}
        _, many = world.combine({k: (place, 4, sent) for k in range(3)}, num_enlisted=enlisted)
        _, one = world.combine({0: (place, 12, sent)}, num_enlisted={layout.model_type: 1})
        assert many.change.keys() == one.change.keys()
        for key in one.change:
            torch.testing.assert_close(many.change[key], one.change[key], **TOLERANCE)


def test_the_order_of_clients_changes_no_bit(world):
    clients = everybody(world)
    _, forward = world.combine(clients)
    _, backward = world.combine(dict(reversed(clients.items())))
    assert forward.change.keys() == backward.change.keys()
    assert all(torch.equal(forward.change[key], backward.change[key]) for key in forward.change)


def test_what_travels_is_changed_at_most_once_and_shapes_fit(world):
    updates, combined = world.combine(everybody(world))
    assert combined.change.keys() <= world.adapters.tensors.keys()
    sent = {key for update in updates for key in update.mean}
    assert combined.change.keys() <= sent
    for key, change_P in combined.change.items():
        assert change_P.shape == (world.adapters.tensors[key].num_elements,) and change_P.dtype == torch.float64
        assert change_P.isfinite().all()
    before = {key: value.clone() for key, value in world.adapters.values.items()}
    world.applied(combined)
    assert all(torch.equal(before[key], value) for key, value in world.adapters.values.items())


def test_clients_that_did_not_move_change_nothing_at_first(world):
    clients = {k: (place, rows, torch.zeros_like(sent)) for k, (place, rows, sent) in everybody(world).items()}
    _, combined = world.combine(clients)
    assert not any(change_P.any() for change_P in combined.change.values())


def test_weights_add_up(world):
    """Twice the weight of everybody is the same round; more rows of one client move the result towards it."""
    clients = everybody(world)
    _, once = world.combine(clients)
    _, twice = world.combine({k: (place, 2 * rows, sent) for k, (place, rows, sent) in clients.items()})
    for key in once.change:
        torch.testing.assert_close(twice.change[key], once.change[key], **TOLERANCE)
    updates, _ = world.combine(clients)
    for update in updates:
        if update.clients is not None:
            assert float(update.clients.share_K.sum()) == pytest.approx(1.0)


def test_a_second_round_is_a_function_of_the_first_ones_state(world):
    """State is plain tensors that a checkpoint can hold: a copy of it gives the same second round."""
    clients = everybody(world)
    _, first = world.combine(clients)
    assert all(isinstance(value, torch.Tensor) for value in first.state.values())
    assert not first.state or world.config.needs_of(world.name) != "slices", "slices cannot be saved"
    copied = {name: value.clone() for name, value in first.state.items()}
    _, second = world.combine(clients, state=first.state, round_number=2)
    _, again = world.combine(clients, state=copied, round_number=2)
    assert all(torch.equal(second.change[key], again.change[key]) for key in second.change)
    assert all(torch.equal(copied[name], first.state[name]) for name in copied), "state of the last round was changed"


def test_what_never_travels_is_in_no_message(world):
    for layout in world.layouts:
        stays = {spec.name for spec in layout.tensors if spec.scope in ("client", "constant")}
        assert stays.isdisjoint(layout.travelling_columns)
        groups = {spec.group for spec in layout.tensors if spec.name in stays}
        assert groups.isdisjoint(layout.group_columns), "a group is of one scope: all of it travels or none"
        assert sum(part.stop - part.start for part in layout.group_columns.values()) == layout.num_travelling


def test_every_exemption_is_of_a_method_and_needed():
    assert {name for _, name in EXEMPT} <= METHODS.keys()
    assert all(len(reason) > 20 for reason in EXEMPT.values())
