"""CMGA as the server of heterotune uses it: whose updates meet in which groups, what is logged, what is kept."""

from __future__ import annotations

import pytest
import torch

from heterotune.adapters.layout import AdapterLayout, TensorSpec
from heterotune.config.heterotune_options import HeterotuneOptions
from heterotune.strategies.cmga_tasks import client_tasks
from heterotune.strategies.heterotune import combine_aligned
from heterotune.strategies.strategy import ClientUpdates, ServerRound, TypeUpdate, fedavg, weighted_mean


def layout_of(name: str) -> AdapterLayout:
    shared = TensorSpec("head.S", (4,), "fleet", "fleet/head.S", "dema.head", "head")
    own = [TensorSpec(f"{n}.V", (3,), "type", f"type/{name}/{n}.V", "dema.type", n) for n in ("0", "1")]
    return AdapterLayout(name, (shared, *own))


LAYOUTS = {name: layout_of(name) for name in ("a", "b", "c")}
TENSORS = {spec.key: spec for layout in LAYOUTS.values() for spec in layout.travelling}
ROWS = {"a": [4, 6], "b": [10], "c": [1, 2, 2]}


def updates(seed: int = 0, only: str = "abc") -> list[TypeUpdate]:
    """Each type's mean, and the clients that it is of; client ids are not in the order of types."""
    draw = torch.Generator().manual_seed(seed)
    found, next_id = [], 9
    for name in only:
        layout, rows = LAYOUTS[name], ROWS[name]
        sent_KP = torch.randn(len(rows), layout.num_travelling, generator=draw)
        share_K = torch.tensor(rows, dtype=torch.float64) / sum(rows)
        mean_P = share_K @ sent_KP.double()
        mean = {spec.key: mean_P[layout.travelling_columns[spec.name]] for spec in layout.travelling}
        ids = list(range(next_id, next_id + len(rows)))
        found.append(TypeUpdate(name, sum(rows), mean, len(rows), ClientUpdates(ids, share_K, sent_KP)))
        next_id -= 3
    return found


def combine(given, state=None, **options):
    server = ServerRound(tensors=TENSORS, layouts=LAYOUTS, state=state or {})
    return combine_aligned(given, server, options=HeterotuneOptions(**options))


def test_clients_are_tasks_in_client_order_with_their_rows():
    tasks = client_tasks(updates(), LAYOUTS)
    assert [(task.model_type, task.weight) for task in tasks] == [
        ("client 3", 1),
        ("client 4", 2),
        ("client 5", 2),
        ("client 6", 10),
        ("client 9", 4),
        ("client 10", 6),
    ]
    for key in TENSORS:
        torch.testing.assert_close(weighted_mean(tasks, key), fedavg(updates(), ServerRound()).change[key])
    vector = tasks[0].mean
    assert len(vector) == 3 and set(vector) == {spec.key for spec in LAYOUTS["c"].travelling}


def test_clients_align_what_only_their_model_type_has_too():
    found = combine(updates(), cmga="project", cmga_tasks="clients")
    groups = {entry["group"] for entry in found.metrics}
    assert groups == {"dema.head/head", "dema.type/0", "dema.type/1"}
    assert {entry["group"] for entry in combine(updates()).metrics} == {"dema.head/head"}
    assert torch.equal(found.change["type/b/0.V"], updates()[1].clients.update_KP[0, 4:7].double())  # one client


def test_many_tasks_log_no_pairs():
    wide = updates()
    ids = list(range(20, 30))
    sent = torch.randn(10, 10, generator=torch.Generator().manual_seed(4))
    clients = ClientUpdates(ids, torch.full((10,), 0.1, dtype=torch.float64), sent)
    wide[0] = TypeUpdate("a", 10, wide[0].mean, 10, clients)
    names = {entry["name"] for entry in combine(wide, cmga_tasks="clients").metrics if entry["group"] == "dema.type/0"}
    assert "cmga/cosine" in names  # of type c's three clients
    head = [entry for entry in combine(wide, cmga_tasks="clients").metrics if entry["group"] == "dema.head/head"]
    assert {entry["name"] for entry in head} == {
        "cmga/conflicts",
        "cmga/norm_ratio",
        "cmga/min_alignment",
        "cmga/mean_cosine",
    }


@pytest.mark.parametrize(
    ("cmga", "pairs"),
    [
        ("project", {"a:b", "a:c", "b:c"}),
        ("gradvac", {"a:b", "a:c", "b:c"}),
        ("aligned_mtl", {"a:b", "a:c", "b:c"}),
        ("cagrad", {"a:result", "b:result", "c:result"}),
        ("mgda", {"a:result", "b:result", "c:result"}),
        ("cosine", {"a:result", "b:result", "c:result"}),
    ],
)
def test_what_is_logged_of_a_group(cmga, pairs):
    metrics = combine(updates(), cmga=cmga).metrics
    after = {entry["pair"]: entry["value"] for entry in metrics if entry["name"] == "cmga/cosine_after"}
    assert after.keys() == pairs and all(-1.0 <= value <= 1.0 for value in after.values())
    similar = [entry["value"] for entry in metrics if entry["name"] == "cmga/magnitude_similarity"]
    assert len(similar) == 3 and all(0.0 < value <= 1.0 for value in similar)
    weights = {entry["model_type"]: entry["value"] for entry in metrics if entry["name"] == "cmga/weight"}
    assert weights == {"a": 0.4, "b": 0.4, "c": 0.2}


def test_of_two_that_conflict_the_projected_ones_do_not():
    given = updates(only="ab")
    given[1].mean["fleet/head.S"].copy_(-given[0].mean["fleet/head.S"] + 0.1)
    metrics = {entry["name"]: entry["value"] for entry in combine(given).metrics}
    assert metrics["cmga/cosine"] < 0.0 <= metrics["cmga/cosine_after"] + 1e-12


def test_gradvac_keeps_its_targets_for_the_types_that_meet():
    first = combine(updates(0), cmga="gradvac")
    assert set(first.state) == {"cmga/dema.head/head/a+b+c"}
    kept = first.state["cmga/dema.head/head/a+b+c"]
    assert kept.shape == (3, 3) and kept.dtype == torch.float64 and not kept.diagonal().any()
    two = combine(updates(1, only="ac"), first.state, cmga="gradvac")
    assert set(two.state) == {"cmga/dema.head/head/a+b+c", "cmga/dema.head/head/a+c"}
    assert torch.equal(two.state["cmga/dema.head/head/a+b+c"], kept)
    third = combine(updates(2), two.state, cmga="gradvac")
    fresh = combine(updates(2), cmga="gradvac")
    assert not torch.equal(third.change["fleet/head.S"], fresh.change["fleet/head.S"])


def test_the_first_round_of_gradvac_is_projection():
    for key, change in combine(updates(3), cmga="gradvac").change.items():
        torch.testing.assert_close(change, combine(updates(3)).change[key])
