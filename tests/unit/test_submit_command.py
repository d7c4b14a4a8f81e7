"""`heterotune submit` on the command line."""

from __future__ import annotations

from pathlib import Path

from heterotune.errors import DataError
from heterotune.launching.submit import Submission
from heterotune.run_folder import RunFolder


def test_a_dry_run_prints_the_script_and_makes_nothing(run_yaml: Path, tmp_path: Path, heterotune) -> None:
    options = ["--nodes", 2, "--ranks-per-node", 2, "--gpus-per-node", 4, "--cpus-per-rank", 8, "--partition", "gpu"]
    options += ["--account", "llm", "--time", "1:00:00", "--via", "srun", "--signal-seconds", 300, "--array", "1-2"]
    options += ["--sbatch-option", "qos=high", "--python", "/venv/bin/python", "--run-dir", tmp_path / "run"]
    done = heterotune("submit", run_yaml, *options, "--container", "docker://x/y", "--set", "rounds=3", "--dry-run")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "#!/usr/bin/env bash" and lines[-1] == 'exit "$code"'
    wanted = "job-name=tiny nodes=2 ntasks-per-node=2 cpus-per-task=8 gpus-per-node=4 partition=gpu account=llm "
    wanted += f"time=1:00:00 array=1-2 output={tmp_path}/run/seed-%a/logs/slurm-%A_%a.out open-mode=append "
    wanted += "signal=B:USR1@300 requeue qos=high"
    assert [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")] == wanted.split()
    assert "PYTHON=/venv/bin/python" in lines
    assert 'apptainer exec --nv --bind "$RUN_DIR" docker://x/y' in done.stdout
    assert not (tmp_path / "run").exists()


def test_without_a_run_folder_a_dry_run_says_where_the_time_goes(run_yaml: Path, tmp_path: Path, heterotune) -> None:
    done = heterotune("submit", run_yaml, "--set", f"output={tmp_path}/out", "--dry-run")
    assert f"RUN_DIR={tmp_path}/out/tiny-YYYYmmdd-HHMMSS\n" in done.stdout
    assert not (tmp_path / "out").exists()


def test_a_submitted_job_is_told_with_what_to_do_next(
    run_yaml: Path, tmp_path: Path, cluster: Path, heterotune
) -> None:
    done = heterotune("submit", run_yaml, "--run-dir", tmp_path / "run")
    assert done.exit_code == 0, done.output
    log = tmp_path / "run" / "logs" / "slurm-42.out"
    for line in (
        "job         42",
        f"run folder  {tmp_path}/run",
        f"log         {log}",
        f"watch       tail -F {log}    squeue -j 42",
        f"stop        scancel 42    (go on later with: sbatch {tmp_path}/run/job.sbatch)",
    ):
        assert line in done.stdout.splitlines()
    assert (tmp_path / "run" / "job.sbatch").is_file()


def test_everything_wrong_is_told_at_once_before_anything_is_made(
    run_yaml: Path, tmp_path: Path, cluster, heterotune
) -> None:
    wrong = ["--nodes", 0, "--time", "soon", "--set", "rounds=0", "--run-dir", tmp_path / "run"]
    done = heterotune("submit", run_yaml, *wrong)
    assert done.exit_code == 2
    for part in ("rounds = 0", "--nodes = 0 is less than 1", "--time = soon is not a time limit"):
        assert part in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_run_that_could_not_start_is_not_submitted(
    run_yaml: Path, tmp_path: Path, cluster, monkeypatch, heterotune
) -> None:
    def refuse(config: object) -> None:
        raise DataError("client 1 has no rows")

    monkeypatch.setattr("heterotune.preflight.check", refuse)
    done = heterotune("submit", run_yaml, "--run-dir", tmp_path / "run")
    assert done.exit_code == 2 and "error: client 1 has no rows" in done.stderr
    assert not (tmp_path / "run").exists()


def follow_with(monkeypatch, end) -> None:
    def follow(submission: Submission, *, on_change, on_poll) -> int:
        on_change("RUNNING")
        on_poll()
        return end(submission.folders)

    monkeypatch.setattr("heterotune.submit_command.follow", follow)


def test_waiting_ends_with_the_report(
    run_yaml: Path, tmp_path: Path, cluster, monkeypatch, heterotune, summary
) -> None:
    def succeed(folders: tuple[RunFolder, ...]) -> int:
        folders[0].write_summary(summary)
        return 0

    follow_with(monkeypatch, succeed)
    done = heterotune("submit", run_yaml, "--run-dir", tmp_path / "run", "--wait")
    assert done.exit_code == 0, done.output
    assert "job 42: RUNNING" in done.stdout and "cd" * 32 in done.stdout


def test_waiting_for_a_job_that_fails(run_yaml: Path, tmp_path: Path, cluster, monkeypatch, heterotune) -> None:
    def fail(folders: tuple[RunFolder, ...]) -> int:
        folders[1].record_failure(3, "ValueError: loss is nan")
        return 7

    follow_with(monkeypatch, fail)
    done = heterotune("submit", run_yaml, "--run-dir", tmp_path / "run", "--array", "1-2", "--wait")
    assert done.exit_code == 7
    assert "The job failed (exit code 7); its log is" in done.stdout
    assert done.stdout.endswith(f"{tmp_path}/run/seed-2\nMPI rank 3 failed:\nValueError: loss is nan\n")


def test_ctrl_c_leaves_the_job_alone(run_yaml: Path, tmp_path: Path, cluster, monkeypatch, heterotune) -> None:
    def interrupt(folders: tuple[RunFolder, ...]) -> int:
        raise KeyboardInterrupt

    follow_with(monkeypatch, interrupt)
    done = heterotune("submit", run_yaml, "--run-dir", tmp_path / "run", "--wait")
    assert done.exit_code == 130 and "Job 42 goes on; `scancel 42` ends it." in done.stdout
