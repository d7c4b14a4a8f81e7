"""Every codec of the wire: the same bits on any number of ranks, after an interruption, and the fleet learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

CASES = Path(__file__).parent / "cases"
RUN = {
    "name": "codecs",
    "seed": 5,
    "rounds": 3,
    "fleet": [
        {"name": "a", "model": "embedded:large-2q", "siblings_of": "b", "clients": 3},
        {"name": "b", "model": "embedded:large-3q", "clients": 2},
    ],
    "data": {"fields": {"text": "text"}, "partition": {"by": "natural", "key": "owner"}, "max_tokens": 16},
    "local": {"steps": 4, "batch_size": 2, "learning_rate": 1e-2},
    "heterotune": {"adapter_rank": 2, "head_rank": 4, "head_basis": 8, "align_tokens": 64, "personal_rank": 1},
    "backbone": {"ds_config": "none"},
    "chunk": {"clients": 2},
    "evaluate": {"max_rows": 10, "batch_size": 5},
}
LOSSY = {"collective": {"wire": "topk", "topk_share": 0.05, "wire_down": "int8"}}


@pytest.fixture(scope="module")
def run_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("codecs")
    lines = [
        {"owner": f"owner {owner}", "text": f"def f{number}(x):\n    return x * {owner} + {number}\n" * 2}
        for owner in range(5)
        for number in range(8)
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = {**RUN, "data": {**RUN["data"], "source": str(folder / "corpus.jsonl")}}
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    return folder / "run.yaml"


@pytest.fixture(scope="module")
def results(run_mpi, run_file) -> dict[int, dict]:
    """Number of ranks -> codec -> what came out."""
    found = {}
    for num_ranks in (1, 2):
        out = run_file.parent / f"ranks-{num_ranks}"
        ended = run_mpi([CASES / "wire_codecs.py", run_file, out], num_ranks=num_ranks, limit_seconds=120)
        assert ended.returncode == 0, ended.output
        found[num_ranks] = json.loads((out / "results.json").read_text())
    return found


def test_the_bits_do_not_depend_on_the_number_of_ranks(results, run_file, kept_by_clients):
    assert results[1] == results[2]
    assert len({found["digest"] for found in results[1].values()}) == len(results[1]) == 4
    for wire in results[1]:
        one, two = (run_file.parent / f"ranks-{num_ranks}" / wire for num_ranks in (1, 2))
        assert (one / "ledger.jsonl").read_text() == (two / "ledger.jsonl").read_text()
        states = kept_by_clients(one)
        assert kept_by_clients(two) == states
        kept = {kind for kind, _, _ in states}
        assert kept == ({"personal", "residual"} if wire == "topk" else {"personal"})


@pytest.mark.parametrize("wire", ["fp32", "bf16", "int8", "topk"])
def test_the_fleet_learns_whatever_the_wire(results, wire):
    for name, losses in results[1][wire]["losses"].items():
        exact = results[1]["fp32"]["losses"][name]
        gained, could_gain = losses[0] - losses[-1], exact[0] - exact[-1]
        assert could_gain > 0.3
        assert gained > (0.3 if wire == "topk" else 0.9) * could_gain, (name, losses, exact)


def test_codecs_send_less(results, run_file):
    sent = {}
    for wire in results[1]:
        lines = (run_file.parent / "ranks-1" / wire / "ledger.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in lines]
        sent[wire] = sum(entry["bytes"] for entry in entries if entry["direction"] == "up")
    assert 0.50 < sent["bf16"] / sent["fp32"] < 0.51
    assert 0.25 < sent["int8"] / sent["fp32"] < 0.27
    assert 0.10 < sent["topk"] / sent["fp32"] < 0.12  # 5 % of the elements, 8 bytes each


@pytest.fixture(scope="module")
def work(run_mpi, run_file):
    """Run a worker with topk up and int8 down on a run folder."""
    lossy = run_file.with_name("lossy.yaml")
    lossy.write_text(yaml.safe_dump(yaml.safe_load(run_file.read_text()) | LOSSY))

    def run(out: Path, *options: str, num_ranks: int, case: tuple[str, ...] = ("-m", "heterotune.worker")):
        out.mkdir(exist_ok=True)
        arguments = [*case, lossy, "--run-dir", out, *options]
        return run_mpi(arguments, num_ranks=num_ranks, limit_seconds=120, environment={"DS_ACCELERATOR": "cpu"})

    return run


def test_what_clients_owe_survives_a_kill(work, results, run_file, tmp_path, kept_by_clients):
    out = tmp_path / "run"
    killed = work(out, num_ranks=2, case=(str(CASES / "interrupted_rank.py"), "SIGKILL", "3"))
    assert killed.returncode not in (0, 75)
    resumed = work(out, "--resume", num_ranks=1)
    assert resumed.returncode == 0, resumed.output
    digest = json.loads((out / "summary.json").read_text())["global_adapter_sha256"]
    assert digest == results[1]["topk"]["digest"]
    uninterrupted = run_file.parent / "ranks-1" / "topk"
    assert (out / "ledger.jsonl").read_text() == (uninterrupted / "ledger.jsonl").read_text()
    assert kept_by_clients(out) == kept_by_clients(uninterrupted)
