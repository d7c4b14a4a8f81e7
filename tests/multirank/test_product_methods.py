"""Methods of product space and windows on a fleet of unequal ranks: bits, resume, bytes, and the changed weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from heterotune.collective.wire import HEADER_BYTES

METHODS = ("flora", "fedex_lora", "flexlora", "hetlora", "heterofl", "fedrolex")
BASE_METHODS = METHODS[:2]
TWO_RANKS = ("flora", "hetlora", "fedrolex")
"""One of each kind: changed weights, single updates of parts, parts that roll. test_strategies.py has all methods."""
HEADS = "num_attention_heads=2,vocab_size=2048"
OPTIONS = {"adapter_rank": 10, "targets": ["q_proj", "down_proj"]}
RUN = {
    "name": "products",
    "seed": 5,
    "rounds": 3,
    # One base at two ranks, and a model of another width.
    "fleet": [
        {"name": "a", "model": f"random:hidden_size=16,intermediate_size=24,num_hidden_layers=2,{HEADS}", "clients": 4},
        {
            "name": "a-low",
            "model": f"random:hidden_size=16,intermediate_size=24,num_hidden_layers=2,{HEADS}",
            "clients": 2,
            "adapter_rank": 1,
            "siblings_of": "a",
        },
        {"name": "b", "model": f"random:hidden_size=8,intermediate_size=12,num_hidden_layers=1,{HEADS}", "clients": 2},
    ],
    "data": {"fields": {"text": "text"}, "partition": {"by": "natural", "key": "owner"}, "max_tokens": 16},
    "cohort": {"fraction": 0.6},
    "local": {"steps": 3, "batch_size": 2, "learning_rate": 2e-2},
    "strategy": METHODS[0],
    "compare_with": METHODS[1:],
    **dict.fromkeys(METHODS, OPTIONS),
    "hetlora": {**OPTIONS, "prune": True, "kept_share": 0.9},
    "heterofl": {**OPTIONS, "share": "width"},
    "backbone": {"ds_config": "none"},
    "collective": {"wire_down": "bf16"},  # what rounds: ranks and clients still come to the same values
    "chunk": {"clients": 2},
    "checkpoint": {"keep_best": False},
    "evaluate": {"max_rows": 8, "batch_size": 8},
}
SITES = {"a": [(16, 16), (16, 24)] * 2, "b": [(8, 8), (8, 12)]}
SITES["a-low"] = SITES["a"]
RANKS = {"a": 10, "a-low": 1, "b": 10}


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, write_run) -> Path:
    return write_run(tmp_path_factory.mktemp("products"), {**RUN, "compare_with": [*METHODS[1:]]}, 8)


@pytest.fixture(scope="module")
def work(work_on, run_file):
    return work_on(run_file)


@pytest.fixture(scope="module")
def on_one_rank(work) -> Path:
    return work("one", 1)


def part_of(run: Path, method: str) -> Path:
    return run if method == METHODS[0] else run / "compare" / method


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def results(part: Path) -> dict[str, object]:
    names = ("loss", "product", "coverage")
    return {
        "digest": json.loads((part / "summary.json").read_text())["global_adapter_sha256"],
        "metrics": [entry for entry in lines_of(part / "metrics.jsonl") if entry["name"].startswith(names)],
        "ledger": (part / "ledger.jsonl").read_text(),
        "adapters": {path.name: path.read_bytes() for path in (part / "adapters").iterdir()},
    }


@pytest.mark.timeout(600)
def test_two_ranks_and_a_resume_come_to_the_bits_of_one(work, on_one_rank):
    some = ("--set", f"compare_with=[{', '.join(TWO_RANKS[1:])}]")
    work("two", 2, *some, "--set", "rounds=2")
    resumed = work("two", 2, *some, "--resume")
    for method in TWO_RANKS:
        found, wanted = results(part_of(resumed, method)), results(part_of(on_one_rank, method))
        assert all(found[name] == wanted[name] for name in wanted), method


@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", METHODS)
def test_it_learns_and_says_what_it_loses(on_one_rank, method):
    part = part_of(on_one_rank, method)
    for told in json.loads((part / "summary.json").read_text())["model_types"].values():
        assert told["loss_after"] < told["loss_before"]
    logged = {entry["name"] for entry in lines_of(part / "metrics.jsonl")}
    wanted = {
        "flora": set(),
        "fedex_lora": {"product/averaging_error"},
        "flexlora": {"product/truncation_error"},
        "hetlora": {"product/padding_error", "coverage/share"},
        "heterofl": {"coverage/least_clients", "coverage/share"},
        "fedrolex": {"coverage/least_clients", "coverage/share"},
    }
    assert {name for name in logged if name.startswith(("product", "coverage"))} >= wanted[method]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", METHODS)
def test_the_ledger_is_what_the_docstring_says(on_one_rank, method):
    entries = lines_of(part_of(on_one_rank, method) / "ledger.jsonl")
    lora = {name: RANKS[name] * sum(map(sum, sites)) for name, sites in SITES.items()}
    took_part: dict[tuple[int, str], set[int]] = {}
    for entry in entries:
        took_part.setdefault((entry["round"], entry["model_type"]), set()).add(entry["client"])
    found = {(e["round"], e["client"], e["direction"], e["group"]): e["bytes"] for e in entries}
    wanted, last_round, used_dense = {}, {}, False
    for (round_number, name), clients in sorted(took_part.items()):
        for client in clients:
            wanted[round_number, client, "up", "lora.lora"] = HEADER_BYTES + 4 * lora[name]
            if method != "flora":
                wanted[round_number, client, "down", "lora.lora"] = HEADER_BYTES + 2 * lora[name]
            if method in BASE_METHODS:
                missed = [len(took_part.get((r, name), ())) for r in range(last_round.get(client, 1), round_number)]
                sizes = [factor_bytes(name, k) for k in missed if k > (method == "fedex_lora")]
                dense = sum(HEADER_BYTES + 4 * d_out * d_in for d_out, d_in in SITES[name])
                used_dense |= sum(sizes) > dense
                if sizes:
                    wanted[round_number, client, "down", "base"] = min(sum(sizes), dense)
            last_round[client] = round_number
    assert found == wanted
    assert used_dense == (method in BASE_METHODS)  # both branches of the formula are met


def factor_bytes(name: str, num_clients: int) -> int:
    """One round's factors in bf16: K r components at every site."""
    return HEADER_BYTES + 2 * num_clients * RANKS[name] * sum(map(sum, SITES[name]))


def test_the_saved_adapters_have_the_changed_weights(on_one_rank):
    for method in BASE_METHODS:
        saved = load_file(part_of(on_one_rank, method) / "adapters" / "a.safetensors")
        change = saved["layers.1.mlp.down_proj.base"]
        assert change.shape == (16, 24) and change.any()
    flora = load_file(on_one_rank / "adapters" / "a.safetensors")
    assert not flora["layers.1.mlp.down_proj.lora.U"].any() and flora["layers.1.mlp.down_proj.lora.V"].any()


@pytest.mark.timeout(300)
def test_sharded_weights_are_changed_alike(work, on_one_rank):
    options = ("--set", "backbone.ds_config=zero3_cpu", "--set", "compare_with=[]")
    sharded = work("zero", 2, *options)
    found, wanted = results(sharded), results(on_one_rank)
    assert found["ledger"] == wanted["ledger"]
    losses = [[entry["value"] for entry in each["metrics"] if entry["name"] == "loss/eval"] for each in (found, wanted)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4) and len(losses[0]) == 4 * (len(RANKS) + 1)
    first, second = (load_file(run / "adapters" / "a.safetensors") for run in (sharded, on_one_rank))
    name = "layers.1.mlp.down_proj.base"
    assert (first[name] - second[name]).norm() < 0.02 * second[name].norm()  # bf16 may round the other way
