"""`from heterotune import RunConfig, run`: light to import, one result with the command line, errors as exceptions."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import heterotune
from heterotune import ConfigError, LaunchError, RunConfig, RunFailed, RunStopped, open_run, plan, resume, run
from heterotune.config.load import parse_run
from heterotune.errors import PREEMPTED
from heterotune.run_folder import RunFolder

SOURCE_ROOT = Path(__file__).parents[2] / "engine"


@pytest.fixture
def config(run_yaml: Path, tmp_path: Path, monkeypatch) -> RunConfig:
    """A run whose models and data are taken for granted."""
    monkeypatch.setattr("heterotune.preflight.check", lambda config: None)
    return RunConfig.from_yaml(run_yaml, [f"output={tmp_path}/out"])


def ranks_that(monkeypatch, end) -> list[dict]:
    """Let a function play the ranks; returns the options that they were started with."""
    started: list[dict] = []

    def run_local(folder: RunFolder, num_ranks: int, *, on_status, **options: object) -> int:
        started.append({"num_ranks": num_ranks, **options})
        on_status({"state": "running", "round": 1})
        return end(folder)

    monkeypatch.setattr("heterotune.launching.local.run_local", run_local)
    return started


@pytest.fixture
def finishes(monkeypatch, summary) -> list[dict]:
    def finish(folder: RunFolder) -> int:
        folder.write_summary({**summary, "model_types": {"small": {}}})
        folder.append_metrics([{"round": 1, "name": "loss/eval", "value": 3.0}])
        (folder.path / "adapters").mkdir()
        save_file({"w": torch.ones(2)}, folder.path / "adapters" / "small.safetensors")
        return 0

    return ranks_that(monkeypatch, finish)


def test_importing_it_loads_nothing() -> None:
    program = (
        "import sys, heterotune; dir(heterotune); heavy = {'torch', 'pydantic', 'typer', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)), 'run' in dir(heterotune))\n"
        "from heterotune import RunConfig, run, plan\n"
        "print(sorted({'torch', 'typer', 'deepspeed', 'mpi4py'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(SOURCE_ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == ["[] True", "[]"], done.stderr


def test_every_public_name_is_there() -> None:
    assert all(getattr(heterotune, name) for name in heterotune.__all__)
    with pytest.raises(AttributeError, match="module 'heterotune' has no attribute 'rum'"):
        heterotune.rum  # noqa: B018


def test_a_result_has_what_the_run_left(config: RunConfig, finishes: list[dict]) -> None:
    seen: list[dict] = []
    result = run(config, ranks=2, on_status=seen.append)
    assert finishes[0]["num_ranks"] == 2 and seen == [{"state": "running", "round": 1}]
    assert result.digest == "cd" * 32
    assert result.metrics == [{"round": 1, "name": "loss/eval", "value": 3.0}]
    assert torch.equal(result.adapters("small")["w"], torch.ones(2))
    assert open_run(result.run_dir) == result
    with pytest.raises(LaunchError, match="has no adapters of model type 'tall'. It has: small."):
        result.adapters("tall")


def test_a_run_can_be_given_in_three_ways(config: RunConfig, run_yaml: Path, tmp_path: Path, finishes) -> None:
    values = json.loads(config.model_dump_json())
    settings = ["seed=5", f"output={tmp_path}/out"]
    folders = [run(given, overrides=settings).run_dir for given in (config, values, str(run_yaml))]
    runs = [RunConfig.from_yaml(folder / "config.yaml") for folder in folders]
    assert runs[0].seed == 5 and runs[0] == runs[1] == runs[2]


def test_what_was_left_to_the_run_is_decided_anew_after_overrides(config: RunConfig, run_yaml: Path, finishes) -> None:
    fleet = [{"name": name, "model": f"embedded:{name}", "clients": 2} for name in ("small", "large")]
    data = {"source": "rows.jsonl", "fields": {"text": "text", "label": "label"}, "public": "questions.jsonl"}
    changes = [f"fleet={json.dumps(fleet)}", f"data={json.dumps(data)}", f"output={config.output}"]
    asked = ["heterotune.distill_steps=8", "heterotune.distill_every=auto", "rounds=8"]
    given = RunConfig.from_yaml(run_yaml, [*changes, *asked])
    shorter = RunConfig.from_yaml(run(given, overrides=["rounds=2"]).run_dir / "config.yaml").heterotune
    assert (given.heterotune.distill_every, shorter.distill_every, shorter.distill_steps) == (4, 2, 8)


def test_going_on_with_fewer_rounds_leaves_undone_what_was_to_be_done_later(config: RunConfig, finishes) -> None:
    given = {**config.model_dump(mode="json"), "rounds": 4, "heterotune": {"realign_every": 3}}
    folder = RunFolder.create(parse_run(given), config.output, "tiny")
    assert resume(folder.path, overrides=["rounds=2"]).run_dir == folder.path
    with pytest.raises(
        ConfigError, match="heterotune.realign_every = 3 is more than rounds = 2, so it would do nothing"
    ):
        run(given, overrides=["rounds=2"])


def test_going_on_with_a_run(config: RunConfig, finishes: list[dict], monkeypatch) -> None:
    folder = RunFolder.create(config, config.output, "tiny")
    result = resume(folder.path, ranks=2, overrides=["rounds=9"])
    assert result.run_dir == folder.path
    assert (finishes[0]["resume"], finishes[0]["overrides"]) == (True, ("rounds=9",))


def test_what_goes_wrong_is_an_exception(config: RunConfig, run_yaml: Path, monkeypatch) -> None:
    with pytest.raises(ConfigError, match=r"ranks = 5 is more than the 4 clients"):
        run(config, ranks=5)
    with pytest.raises(ConfigError, match="Did you mean rounds?"):
        run(run_yaml, overrides=["roundz=1"])
    with pytest.raises(ConfigError, match="rounds = 0 is too small"):
        run({**json.loads(config.model_dump_json()), "rounds": 0})

    def fail(folder: RunFolder) -> int:
        folder.record_failure(1, "ValueError: loss is nan")
        return 3

    ranks_that(monkeypatch, fail)
    with pytest.raises(
        RunFailed, match=r"the run failed \(exit code 3\).\nMPI rank 1 failed:\nValueError: loss is nan"
    ):
        run(config)
    ranks_that(monkeypatch, lambda folder: PREEMPTED)
    with pytest.raises(RunStopped, match="stopped as asked; all is saved. Go on with heterotune.resume."):
        run(config)


def test_it_works_beside_an_event_loop_and_in_a_thread(config: RunConfig, monkeypatch, summary) -> None:
    """As in a notebook, whose cells run inside an event loop, or in a service."""
    from heterotune.launching.local import run_command

    program = "import json, sys; open(sys.argv[1], 'w').write(sys.argv[2])"

    def really(folder: RunFolder, num_ranks: int, *, on_status, **options: object) -> int:
        path = str(folder.path / "summary.json")
        return run_command([sys.executable, "-c", program, path, json.dumps(summary)], {}, folder, on_status)

    monkeypatch.setattr("heterotune.launching.local.run_local", really)

    async def cell() -> str:
        return run(config).digest

    digests = [asyncio.run(cell())]
    thread = threading.Thread(target=lambda: digests.append(run(config).digest))
    thread.start()
    thread.join(timeout=60)
    assert digests == ["cd" * 32] * 2


def test_a_plan(config: RunConfig, run_yaml: Path, heterotune) -> None:
    told = json.loads(heterotune("plan", run_yaml, "--ranks-per-node", 2, "--host-memory", "8GiB", "--json").stdout)
    assert plan(config, ranks_per_node=2, host_memory="8GiB")["fits"] == told["fits"]
    with pytest.raises(ConfigError, match="ranks_per_node|ranks-per-node"):
        plan(config, ranks_per_node=0)
