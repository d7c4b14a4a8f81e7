"""A run that was stopped or killed goes on, on another number of ranks, and ends as if nothing had happened."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from heterotune.client_segments import latest_states
from heterotune.launching.progress import saved_rounds

MODEL = "random:hidden_size=16,intermediate_size=24,num_attention_heads=2,vocab_size=2048"
RUN = {
    "name": "resume",
    "seed": 5,
    "rounds": 4,
    "fleet": [
        {"name": "a", "model": f"{MODEL},num_hidden_layers=2", "clients": 7},
        {"name": "b", "model": f"{MODEL},num_hidden_layers=1,seed=3", "clients": 5},
    ],
    "data": {"fields": {"text": "text"}, "partition": {"by": "natural", "key": "owner"}, "max_tokens": 16},
    "cohort": {"fraction": 0.7},
    "local": {"steps": 2, "batch_size": 2, "learning_rate": 1e-2},
    "compare_with": ["fedavg_lora"],
    "heterotune": {
        "adapter_rank": 2,
        "head_rank": 4,
        "head_basis": 8,
        "align_tokens": 64,
        "realign_every": 2,
        "personal_rank": 1,
    },
    "backbone": {"ds_config": "none"},
    "chunk": {"clients": 2},
    "evaluate": {"max_rows": 8, "batch_size": 3},
}
CASE = Path(__file__).parent / "cases" / "interrupted_rank.py"
RESULTS = ("loss", "perplexity", "cmga", "alignment/correlation", "alignment/gradient_cosine")


@pytest.fixture(scope="module")
def run_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    lines = [
        {"owner": f"owner {owner}", "text": f"def f{number}(x):\n    return x * {owner} + {number}\n" * 2}
        for owner in range(12)
        for number in range(4 + owner)
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = {**RUN, "data": {**RUN["data"], "source": str(folder / "corpus.jsonl")}}
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    return folder / "run.yaml"


@pytest.fixture(scope="module")
def work(run_mpi, run_file):
    """Run a worker on a run folder; returns how the job ended."""

    def run(out: Path, *options: str, num_ranks: int, case: tuple[str, ...] = ("-m", "heterotune.worker")):
        out.mkdir(exist_ok=True)
        arguments = [*case, run_file, "--run-dir", out, *options]
        return run_mpi(arguments, num_ranks=num_ranks, limit_seconds=120, environment={"DS_ACCELERATOR": "cpu"})

    return run


@pytest.fixture(scope="module")
def uninterrupted(work, run_file) -> Path:
    out = run_file.parent / "uninterrupted"
    ended = work(out, num_ranks=1)
    assert ended.returncode == 0, ended.output
    return out


def interrupted(how: str, round_number: int, num_chunks: int = 1) -> tuple[str, ...]:
    return (str(CASE), how, str(round_number), str(num_chunks))


def results(run: Path) -> dict[str, object]:
    """What must not depend on interruptions: adapters, digests, every number that is a result, every byte."""
    found: dict[str, object] = {}
    for part in (run, run / "compare" / "fedavg_lora"):
        name = part.name if part != run else "main"
        summary = json.loads((part / "summary.json").read_text())
        metrics = [json.loads(line) for line in (part / "metrics.jsonl").read_text().splitlines()]
        found[name, "digest"] = summary["global_adapter_sha256"]
        found[name, "metrics"] = [entry for entry in metrics if entry["name"].startswith(RESULTS)]
        found[name, "rounds"] = [entry["round"] for entry in metrics if entry["name"] == "seconds/round"]
        found[name, "ledger"] = (part / "ledger.jsonl").read_text()
        found[name, "model_types"] = summary["model_types"]
        for folder in ("adapters", "adapters-best"):
            found[name, folder] = {path.name: path.read_bytes() for path in (part / folder).iterdir()}
    found["clients"] = {client: state.tobytes() for client, state in latest_states(run / "clients").items()}
    return found


def test_a_run_that_is_asked_to_stop_saves_finished_chunks_and_goes_on(work, uninterrupted, tmp_path):
    round_number = 3
    out = tmp_path / "run"
    stopped = work(out, num_ranks=2, case=interrupted("SIGTERM", round_number))
    assert stopped.returncode == 75, stopped.output
    told = re.search(rf"stopped as asked in round {round_number} of 4, (\d) of its 5 chunks left", stopped.output)
    assert told is not None, stopped.output
    assert not (out / "failure.json").exists() and not (out / "lock").exists()
    num_finished = 5 - int(told[1])
    assert saved_rounds(out) == {".": round_number - 1, f"progress/round-{round_number:06d}": num_finished}
    resumed = work(out, "--resume", num_ranks=3)
    assert resumed.returncode == 0, resumed.output
    assert f"heterotune: round {round_number}: {num_finished} of its 5 chunks were finished before" in resumed.output
    assert "heterotune: round 4 of 4 took" in resumed.output  # the root's log is on the terminal
    assert f"heterotune: round {round_number - 1} of 4" not in resumed.output
    assert results(out) == results(uninterrupted)


def test_a_run_that_saves_no_chunks_finishes_the_round_before_it_stops(work, uninterrupted, tmp_path):
    out = tmp_path / "run"
    no_chunks = ("--set", "checkpoint.every_rounds=3")  # round 2 begins from what is not saved
    stopped = work(out, *no_chunks, num_ranks=2, case=interrupted("SIGUSR1", 2))
    assert stopped.returncode == 75, stopped.output
    assert "stopped as asked after round 2 of 4" in stopped.output
    assert saved_rounds(out) == {".": 2}
    resumed = work(out, "--resume", num_ranks=1)
    assert resumed.returncode == 0, resumed.output
    assert results(out) == results(uninterrupted)


@pytest.mark.parametrize(("round_number", "num_ranks"), [(1, 1), (3, 3)])
def test_a_killed_run_goes_on_in_the_middle_of_a_round(work, uninterrupted, tmp_path, round_number, num_ranks):
    out = tmp_path / "run"
    every_chunk = ("--set", "checkpoint.progress_seconds=0")
    killed = work(out, *every_chunk, num_ranks=2, case=interrupted("SIGKILL", round_number, 2))
    assert killed.returncode not in (0, 75)
    assert not (out / "summary.json").exists()
    saved = saved_rounds(out)
    assert saved["."] == round_number - 1
    num_finished = saved[f"progress/round-{round_number:06d}"]
    assert 2 <= num_finished <= 5  # rank 1's; rank 0 may have finished some or all of its own
    shutil.rmtree(out / "logs")
    resumed = work(out, "--resume", num_ranks=num_ranks, case=interrupted("SIGKILL", 99))
    assert resumed.returncode == 0, resumed.output
    assert num_trained(out, round_number) == 5 - num_finished
    assert num_trained(out, round_number - 1) == 0 and num_trained(out, 4) == 5
    assert results(out) == results(uninterrupted)
    assert list((out / "progress").iterdir()) == []


def test_ranks_that_share_a_backbone_leave_a_round_together(work, tmp_path):
    options = [
        word for key in ("rounds=2", "compare_with=[]", "backbone.ds_config=zero3_cpu") for word in ("--set", key)
    ]
    whole, out = tmp_path / "whole", tmp_path / "run"
    ended = work(whole, *options, num_ranks=1)
    assert ended.returncode == 0, ended.output
    stopped = work(out, *options, num_ranks=2, case=interrupted("SIGUSR1", 1))
    assert stopped.returncode == 75, stopped.output
    assert "stopped as asked in round 1 of 2, 3 of its 5 chunks left" in stopped.output
    assert saved_rounds(out) == {".": 0, "progress/round-000001": 2}
    resumed = work(out, "--resume", *options, num_ranks=1)
    assert resumed.returncode == 0, resumed.output
    digests = [json.loads((run / "summary.json").read_text())["global_adapter_sha256"] for run in (whole, out)]
    assert digests[0] == digests[1]


def num_trained(run: Path, round_number: int) -> int:
    """How many chunks of a round the last job trained with the main strategy."""
    logs = "".join(log.read_text() for log in (run / "logs").glob("rank-*.log"))
    return len(re.findall(rf"^trains heterotune {round_number} ", logs, re.MULTILINE))


def test_a_longer_run_goes_on_and_a_broken_checkpoint_is_passed_over(work, uninterrupted, tmp_path):
    out = tmp_path / "run"
    first = work(out, "--set", "rounds=2", num_ranks=1)
    assert first.returncode == 0, first.output
    for part in (out, out / "compare" / "fedavg_lora"):
        newest = part / "checkpoints" / "round-000002" / "state.safetensors"
        content = newest.read_bytes()
        newest.unlink()
        newest.write_bytes(content[:-1])
    extended = work(out, "--resume", num_ranks=2)
    assert extended.returncode == 0, extended.output
    assert results(out) == results(uninterrupted)
    before = {path: path.read_bytes() for path in out.rglob("*.safetensors")}
    again = work(out, "--resume", num_ranks=1)
    assert again.returncode == 0, again.output
    assert {path: path.read_bytes() for path in out.rglob("*.safetensors")} == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "already holds a run. Resume it, or give the new run another folder."),
        (("--resume", "--set", "local.steps=3"), "local.steps was 2 when the run began and is 3 now"),
        (("--resume", "--set", "rounds=2"), "rounds = 2 is less than the 4 rounds that are done"),
    ],
)
def test_what_cannot_be_resumed_is_refused(work, uninterrupted, options, told):
    ended = work(uninterrupted, *options, num_ranks=2)
    assert ended.returncode == 2 and told in ended.output, ended.output
