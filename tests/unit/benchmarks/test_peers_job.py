"""The benchmark against peers: a job file holds exactly what heterotune trains on, and a wrong job is noticed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[3] / "tools" / "benchmarks"
MODULES = ("job", "make_job", "lora_llama", "bare_job", "systems", "installation", "report", "training_pass", "peers")


@pytest.fixture(scope="module")
def benchmark() -> Iterator[SimpleNamespace]:
    """The benchmark's modules; scripts that import one another by bare names, so they are forgotten afterwards."""
    before = list(sys.path)
    sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "peers")]
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    sys.path[:] = before
    for name in MODULES:
        del sys.modules[name]


@pytest.fixture(scope="module")
def run_file(benchmark, tmp_path_factory) -> Path:
    """A run of three rounds over four clients with a tiny model."""
    model = benchmark.training_pass.random_model(16, num_layers=2, vocab_size=2048)
    work = benchmark.make_job.Work(
        model, num_tokens=8, batch_size=2, num_clients=4, cohort_size=2, num_rows=4, adapter_rank=2
    )
    folder = tmp_path_factory.mktemp("peers")
    return benchmark.make_job.write_run_file(folder, work, num_rounds=3, chunk_clients=2)


@pytest.fixture(scope="module")
def job(benchmark, run_file):
    """The run's job."""
    return benchmark.make_job.make_job(run_file)


def test_a_job_survives_its_file(benchmark, job, tmp_path):
    benchmark.job.save_job(tmp_path / "job.npz", job)
    again = benchmark.job.load_job(tmp_path / "job.npz")
    assert again.about == job.about
    for round_number in (1, 2, 3):
        for place in (0, 1):
            for rows, before in zip(
                again.client_rows(round_number, place), job.client_rows(round_number, place), strict=True
            ):
                np.testing.assert_array_equal(rows, before)
    assert all((again.weights[name] == array).all() for name, array in job.weights.items())
    assert all((again.lora[name] == array).all() for name, array in job.lora.items())


def test_the_engine_and_a_bare_loop_end_with_the_same_adapter(benchmark, run_file, job):
    setting = benchmark.systems.Setting(run_file.parent, run_file, Path("unused"), Path("unused"), timeout_seconds=240)
    outcome = benchmark.systems.run_system("heterotune", setting)
    _, lora = benchmark.bare_job.run(job)
    assert benchmark.job.relative_difference(outcome.lora, lora, job.lora) < benchmark.peers.TOLERANCE
    assert len(outcome.timed_seconds) == 1
    assert outcome.note == "2 clients per chunk"


@pytest.mark.parametrize("what", ["cohort", "batch", "scale"])
def test_another_job_is_noticed(benchmark, job, what):
    _, lora = benchmark.bare_job.run(job)
    cohorts, picks = job.cohorts_RC.copy(), job.picks_RCSB.copy()
    cohorts[-1, 0] = next(client for client in range(job.num_clients) if client not in cohorts[-1])
    picks[-1, 0, 0, 0] = (picks[-1, 0, 0, 0] + 1) % 4
    changed = {
        "cohort": {"cohorts_RC": cohorts},
        "batch": {"picks_RCSB": picks},
        "scale": {"about": job.about | {"lora_scale": 1.01 * job.about["lora_scale"]}},
    }[what]
    _, other = benchmark.bare_job.run(replace(job, **changed))
    assert benchmark.job.relative_difference(other, lora, job.lora) > 10 * benchmark.peers.TOLERANCE


def test_adapters_with_other_tensors_are_refused(benchmark, job):
    fewer = dict(list(job.lora.items())[1:])
    with pytest.raises(ValueError, match=r"adapters differ in their tensors: \['layers.0.self_attn.q_proj.U'\]"):
        benchmark.job.relative_difference(fewer, job.lora, job.lora)


def test_a_system_that_fails_shows_the_end_of_its_log(benchmark, run_file):
    missing = run_file.parent / "missing.npz"
    setting = benchmark.systems.Setting(run_file.parent, run_file, missing, Path(sys.executable), timeout_seconds=240)
    with pytest.raises(benchmark.systems.RunFailed, match=r"exit code 1\. The end of .*\n(.*\n)*.*missing\.npz"):
        benchmark.systems.run_system("bare-loop", setting)


def test_clients_with_too_few_rows_are_refused(benchmark, run_file, tmp_path):
    longer = tmp_path / "run.yaml"
    longer.write_text(run_file.read_text().replace("max_rows_per_client: 4", "max_rows_per_client: 400"))
    with pytest.raises(ValueError, match="a client has not 400 full rows; the generated text is too short"):
        benchmark.make_job.make_job(longer)


def test_systems_that_end_with_other_adapters_fail_the_benchmark(benchmark, job, tmp_path, monkeypatch):
    benchmark.job.save_job(tmp_path / "job.npz", job)
    setting = benchmark.systems.Setting(tmp_path, tmp_path, tmp_path / "job.npz", tmp_path, timeout_seconds=1)
    ends = np.arange(4.0)

    def run_system(name, setting):
        factor = {"bare-loop": 2.0, "flower": 2.001}[name]
        return benchmark.job.Outcome(ends, {key: factor * array for key, array in job.lora.items()})

    monkeypatch.setattr(benchmark.peers, "run_system", run_system)
    with pytest.raises(benchmark.systems.RunFailed, match=r"flower, run 1: its adapter is 1\.0e-03 of what"):
        benchmark.peers.take_turns(["bare-loop", "flower"], setting, 1)
    assert len(benchmark.peers.take_turns(["bare-loop"], setting, 2)) == 2


def test_other_versions_in_the_peers_environment_are_refused(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark.installation, "REPORTED", ("torch", "numpy"))
    monkeypatch.setattr(benchmark.installation, "SAME_AS_HERE", ("torch", "numpy"))
    monkeypatch.setattr(benchmark.installation, "version", lambda name: "0.0")
    with pytest.raises(RuntimeError, match="torch, numpy: other versions in .* than here"):
        benchmark.installation.versions(Path(sys.executable))


def test_ratios_are_between_runs_of_one_turn(benchmark, tmp_path):
    def run(system, turn, seconds):
        return benchmark.report.Run(system, turn, np.array([seconds]), 0.0, 0.0)

    runs = [run("heterotune", 1, 1.0), run("pfl", 1, 3.0), run("pfl", 2, 8.0), run("heterotune", 2, 2.0)]
    assert [benchmark.report.times_base(runs, each) for each in runs] == [1.0, 3.0, 4.0, 1.0]
    assert "3.50 x heterotune" in benchmark.report.summary(runs)
    benchmark.report.write(tmp_path / "table.csv", runs, {"commit": "abc"})
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert lines[0] == "# commit: abc"
    assert lines[-2].startswith("pfl,2,8.00000,8.00000,4.000,")
