"""From a run file and a request to a job: checks, then run folders, then sbatch; a refusal leaves nothing behind."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from heterotune.config.load import load_run
from heterotune.errors import ConfigError, LaunchError
from heterotune.launching import submit as submit_module
from heterotune.launching.batch_request import BatchRequest
from heterotune.launching.launch_methods import LaunchMethod
from heterotune.launching.submit import choose_via, load_checked, new_run_dir, plan, submit, unnamed_run_dir


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch) -> Callable[..., Path]:
    """Put sbatch and sinfo on an otherwise empty PATH; returns the file that keeps what sbatch was given."""

    def put(*, sbatch: str = "echo 42", sinfo: str = "echo 'gpu 2 4'; echo 'main* 3 8'") -> Path:
        tools, seen = tmp_path / "tools", tmp_path / "seen"
        tools.mkdir(exist_ok=True)
        bodies = {"sbatch": f'echo "$2" >{seen}\n{sbatch}', "sinfo": sinfo}
        for name, body in bodies.items():
            (tools / name).write_text(f"#!/bin/sh\n{body}\n")
            (tools / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(tools))
        return seen

    return put


def planned(run_yaml: Path, run_dir: Path, **request: object):
    config = load_run(run_yaml)
    return plan(config, BatchRequest(nodes=1, **request), run_dir, "/venv/bin/python", "mpirun"), config


def test_a_submitted_run_has_its_folder_and_its_script(run_yaml: Path, slurm, tmp_path: Path) -> None:
    seen = slurm()
    script, config = planned(run_yaml, tmp_path / "runs" / "a")
    submission = submit(script, config, os.environ)
    path = tmp_path / "runs" / "a" / "job.sbatch"
    assert (submission.job, submission.script) == ("42", path)
    assert submission.log == f"{tmp_path}/runs/a/logs/slurm-42.out"
    assert seen.read_text().strip() == str(path)
    (folder,) = submission.folders
    assert load_run(folder.config_path) == config and folder.log_folder.is_dir()
    assert f"RUN_DIR={folder.path}\n" in path.read_text()


def test_an_array_has_a_folder_for_every_seed(run_yaml: Path, slurm, tmp_path: Path) -> None:
    slurm()
    script, config = planned(run_yaml, tmp_path / "sweep", array="1,5-6")
    submission = submit(script, config, os.environ)
    assert [folder.path.name for folder in submission.folders] == ["seed-1", "seed-5", "seed-6"]
    assert [load_run(folder.config_path).seed for folder in submission.folders] == [1, 5, 6]
    assert submission.log == f"{tmp_path}/sweep/seed-*/logs/slurm-42_*.out"
    assert submission.script == tmp_path / "sweep" / "job.sbatch"


@pytest.mark.parametrize("exists", [False, True])
def test_a_refused_job_leaves_nothing(run_yaml: Path, slurm, tmp_path: Path, exists: bool) -> None:
    slurm(sbatch="echo 'sbatch: error: Invalid account' >&2; exit 1")
    run_dir = tmp_path / "mine"
    if exists:
        run_dir.mkdir()
    script, config = planned(run_yaml, run_dir, array="1-2")
    with pytest.raises(LaunchError, match="sbatch refused the job: sbatch: error: Invalid account"):
        submit(script, config, os.environ)
    assert run_dir.exists() == exists
    assert not exists or list(run_dir.iterdir()) == []


def test_a_run_folder_that_cannot_be_made(run_yaml: Path, slurm, tmp_path: Path) -> None:
    slurm()
    (tmp_path / "file").touch()
    script, config = planned(run_yaml, tmp_path / "file" / "below")
    with pytest.raises(
        LaunchError, match=r"no run folder can be made there \(Not a directory\)\. Choose another --run"
    ):
        submit(script, config, os.environ)


def test_root_may_start_mpirun_in_the_job(monkeypatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert submit_module._job_environment({"HOME": "/root"})["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] == "1"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert submit_module._job_environment({"HOME": "/home/x"}) == {"HOME": "/home/x"}


def test_problems_of_run_request_folder_and_cluster_come_together(run_yaml: Path, slurm, tmp_path: Path) -> None:
    slurm()
    request = BatchRequest(nodes=0, partition="gpu,cpu", via="ssh")
    with pytest.raises(ConfigError) as caught:
        load_checked(run_yaml, ["rounds=0"], request, tmp_path, dry_run=False)
    told = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 5
    for part in ("rounds = 0", "--nodes = 0", "--via = ssh", f"--run-dir = {tmp_path} is not a new or empty folder"):
        assert part in told
    assert "--partition = cpu is not a partition of this cluster. There are: gpu, main." in told


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"nodes": 4}, "--nodes = 4 is more than the 3 nodes of partition main. Lower it, or name another --partition"),
        ({"nodes": 3, "partition": "gpu"}, "--nodes = 3 is more than the 2 nodes of partition gpu."),
        (
            {"nodes": 1, "ranks_per_node": 3, "cpus_per_rank": 3},
            "--ranks-per-node x --cpus-per-rank = 3 x 3 is more than the 8 CPUs of a node of partition main. Lower one",
        ),
    ],
)
def test_a_job_that_would_wait_for_ever(run_yaml: Path, slurm, request_: dict, message: str) -> None:
    slurm()
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_checked(run_yaml, [], BatchRequest(**request_), None, dry_run=False)
    load_checked(run_yaml, [], BatchRequest(nodes=3, partition="main,gpu", cpus_per_rank=8), None, dry_run=False)


def test_without_sinfo_or_a_default_partition_slurm_decides(run_yaml: Path, slurm, tmp_path: Path) -> None:
    slurm(sinfo="echo 'gpu 1 1'")
    load_checked(run_yaml, [], BatchRequest(nodes=4), None, dry_run=False)
    slurm()
    (tmp_path / "tools" / "sinfo").unlink()
    load_checked(run_yaml, [], BatchRequest(nodes=4, partition="x"), None, dry_run=False)


def test_a_machine_without_slurm(run_yaml: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="sbatch is not on PATH. Submit on a login node of the cluster, or look at"):
        load_checked(run_yaml, [], BatchRequest(nodes=1), None, dry_run=False)
    assert load_checked(run_yaml, [], BatchRequest(nodes=1, partition="x"), tmp_path, dry_run=True).name == "tiny"


def test_a_slurm_that_is_down(run_yaml: Path, slurm, tmp_path: Path) -> None:
    slurm(sinfo="exit 1")
    with pytest.raises(ConfigError, match=r"sinfo: exit code 1\. Is this cluster's Slurm up\?"):
        load_checked(run_yaml, [], BatchRequest(nodes=1), None, dry_run=False)


def test_a_new_run_folder_is_absolute_and_named_by_the_time(run_yaml: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = new_run_dir(load_run(run_yaml, ["output=out"]))
    assert path.parent == tmp_path / "out" and path.name.startswith("tiny-20") and not path.exists()
    assert unnamed_run_dir(load_run(run_yaml)) == tmp_path / "runs" / "tiny-YYYYmmdd-HHMMSS"
    with pytest.raises(ConfigError, match="has characters that an #SBATCH line cannot carry"):
        new_run_dir(load_run(run_yaml, ["output=my runs"]))


SHIPPED_JSON = Path(__file__).parents[3] / "ds_configs" / "zero3_cpu.json"
NAMING = (  # every key that names a file or a folder
    ("fleet.0.model={}",),
    ("fleet.0.adapter={}",),
    ("data.source={}",),
    ("data.source={{path: {}}}",),
    ("data.source={{lines: {{text: {}}}}}",),
    ("data.root={}",),
    ("data.test={}",),
    ("data.public={}",),
    ("data.tokenizer={}",),
    ("data.cache={}",),
    ("data.partition.groups={}", "data.partition.key=owner"),
    ("backbone.ds_config={}",),
    ("devices.file={}", "devices.assign.small=phone"),
    ("devices.trace={}",),
    ("availability.trace={}", "availability.model=trace"),
)


@pytest.mark.parametrize("settings", NAMING, ids=lambda settings: settings[0].partition("=")[0])
def test_relative_paths_of_the_run_start_where_it_was_submitted(
    settings: tuple[str, ...], run_yaml: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "named.json").write_text(SHIPPED_JSON.read_text())

    def work_dir(path: str) -> str | None:
        config = load_run(run_yaml, [setting.format(path) for setting in settings])
        return plan(config, BatchRequest(nodes=1), tmp_path / "x", "python", "mpirun").work_dir

    assert planned(run_yaml, tmp_path / "x")[0].work_dir is None
    assert work_dir("named.json") == str(tmp_path)
    assert work_dir(f"{tmp_path}/named.json") is None


METHODS = (LaunchMethod("mpirun", False, "of mpich"), LaunchMethod("srun", True, "fine"))


def test_the_first_way_that_works_starts_the_ranks(monkeypatch) -> None:
    monkeypatch.setattr(submit_module, "launch_methods", lambda python: METHODS)
    warnings: list[str] = []
    choose = {"python": "python", "warn": warnings.append, "dry_run": False}
    assert choose_via(BatchRequest(nodes=1), **choose) == "srun"
    assert choose_via(BatchRequest(nodes=1, via="srun"), **choose) == "srun" and warnings == []
    assert choose_via(BatchRequest(nodes=1, via="mpirun"), **choose) == "mpirun"
    assert warnings == ["--via mpirun does not seem to work here: of mpich."]
    monkeypatch.setattr(submit_module, "launch_methods", lambda python: METHODS[:1])
    with pytest.raises(LaunchError, match="No way of starting ranks works here. `heterotune doctor` says why"):
        choose_via(BatchRequest(nodes=1), **choose)


def test_a_dry_run_looks_at_nothing(monkeypatch) -> None:
    monkeypatch.setattr(submit_module, "launch_methods", None)
    for via, chosen in (("auto", "mpirun"), ("deepspeed", "deepspeed")):
        assert choose_via(BatchRequest(nodes=1, via=via), "python", print, dry_run=True) == chosen
