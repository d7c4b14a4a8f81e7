"""The command line: what a user gets wrong ends with exit code 2 and a message, before any rank starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from heterotune.config.load import load_run
from heterotune.errors import PREEMPTED, DataError
from heterotune.run_folder import RunFolder


@pytest.fixture
def checked(monkeypatch) -> list:
    """Replace the checks of models and data, which have tests of their own."""
    seen: list = []
    monkeypatch.setattr("heterotune.preflight.check", seen.append)
    return seen


def run_folders(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "out").glob("*"))


def test_help_and_version(heterotune) -> None:
    assert "RUN.yaml" in heterotune("run", "--help").output
    assert heterotune("--version").output.strip() == "0.1.0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ranks", 5), "--ranks = 5 is more than the 4 clients"),
        (("--set", "roundz=3"), "roundz"),
        (("--set", "fleet.0.clients=0", "--set", "rounds=0"), "rounds"),
    ],
)
def test_bad_input_ends_before_anything_is_made(
    run_yaml: Path, tmp_path: Path, arguments, message: str, heterotune
) -> None:
    done = heterotune("run", run_yaml, "--output", tmp_path / "out", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert run_folders(tmp_path) == []


def test_a_missing_run_file(tmp_path: Path, heterotune) -> None:
    done = heterotune("run", tmp_path / "none.yaml")
    assert done.exit_code == 2 and "none.yaml" in done.stderr


def test_a_failed_preflight_leaves_no_run_folder(run_yaml: Path, tmp_path: Path, monkeypatch, heterotune) -> None:
    def refuse(config: object) -> None:
        raise DataError("client 1 has no rows")

    monkeypatch.setattr("heterotune.preflight.check", refuse)
    done = heterotune("run", run_yaml, "--output", tmp_path / "out")
    assert done.exit_code == 2 and "error: client 1 has no rows" in done.stderr
    assert run_folders(tmp_path) == []


def test_a_failed_run_shows_its_traceback_last(
    run_yaml: Path, tmp_path: Path, monkeypatch, checked: list, heterotune
) -> None:
    def fail(folder: RunFolder, num_ranks: int, **options: object) -> int:
        folder.record_failure(1, "Traceback ...\nValueError: loss is nan")
        return 3

    monkeypatch.setattr("heterotune.launching.local.run_local", fail)
    done = heterotune("run", run_yaml, "--output", tmp_path / "out", "--ranks", 2)
    assert done.exit_code == 1
    assert done.stderr.rstrip().endswith("MPI rank 1 failed:\nTraceback ...\nValueError: loss is nan")


def test_an_interrupted_run(run_yaml: Path, tmp_path: Path, monkeypatch, checked: list, heterotune) -> None:
    def interrupt(folder: RunFolder, num_ranks: int, **options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("heterotune.launching.local.run_local", interrupt)
    done = heterotune("run", run_yaml, "--output", tmp_path / "out")
    assert done.exit_code == 130 and "Interrupted; the ranks were ended" in done.stderr


def test_a_run_that_left_no_summary_failed(
    run_yaml: Path, tmp_path: Path, monkeypatch, checked: list, heterotune
) -> None:
    monkeypatch.setattr("heterotune.launching.local.run_local", lambda folder, num_ranks, **options: 0)
    done = heterotune("run", run_yaml, "--output", tmp_path / "out")
    assert done.exit_code != 0 and "the run left no summary.json" in done.stderr


def test_a_run_ends_with_the_report(
    run_yaml: Path, tmp_path: Path, monkeypatch, checked: list, heterotune, summary
) -> None:
    def succeed(folder: RunFolder, num_ranks: int, **options: object) -> int:
        folder.write_summary(summary | {"rounds": num_ranks})
        return 0

    monkeypatch.setattr("heterotune.launching.local.run_local", succeed)
    done = heterotune("run", run_yaml, "--output", tmp_path / "out", "--ranks", 2, "--set", "seed=5")
    assert done.exit_code == 0, done.output
    assert "cd" * 32 in done.stdout and str(tmp_path / "out") in done.stdout.replace("\n", "")
    (folder,) = run_folders(tmp_path)
    assert json.loads((folder / "summary.json").read_text())["rounds"] == 2
    assert checked[0].seed == 5


def test_a_stopped_run_says_how_to_go_on(
    run_yaml: Path, tmp_path: Path, monkeypatch, checked: list, heterotune
) -> None:
    def stop(folder: RunFolder, num_ranks: int, **options: object) -> int:
        assert (options["resume"], options["overrides"]) == (False, ())
        checkpoint = folder.path / "checkpoints" / "round-000003"
        checkpoint.mkdir(parents=True)
        (checkpoint / "manifest.json").touch()
        return PREEMPTED

    monkeypatch.setattr("heterotune.launching.local.run_local", stop)
    done = heterotune("run", run_yaml, "--output", tmp_path / "out")
    (folder,) = run_folders(tmp_path)
    assert done.exit_code == 75
    assert f"Stopped, saved after round 3; go on with `heterotune resume {folder}`." in done.stderr


def test_a_run_goes_on_in_its_folder(
    run_yaml: Path, tmp_path: Path, monkeypatch, checked: list, heterotune, summary
) -> None:
    def succeed(folder: RunFolder, num_ranks: int, **options: object) -> int:
        assert (options["resume"], options["overrides"]) == (True, ("rounds=9",))
        folder.write_summary(summary | {"rounds": num_ranks})
        return 0

    monkeypatch.setattr("heterotune.launching.local.run_local", succeed)
    begun = load_run(run_yaml, ["seed=5", "rounds=20", "heterotune.realign_every=10"])
    folder = RunFolder.create(begun, tmp_path / "out", "tiny")
    done = heterotune("run", "--resume", folder.path, "--ranks", 2, "--set", "rounds=9")
    assert done.exit_code == 0, done.output
    assert run_folders(tmp_path) == [folder.path]
    assert folder.read_summary()["rounds"] == 2
    assert (checked[0].seed, checked[0].rounds) == (5, 9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "RUN.yaml is missing. Name a run file, or an earlier run with --resume RUN_DIR. `heterotune init` writes"),
        (("{run_yaml}", "--resume", "{folder}"), "RUN.yaml = {run_yaml} does not go with --resume"),
        (("--resume", "{folder}", "--output", "out"), "--output = out does not go with --resume"),
        (("--resume", "{empty}"), "{empty} has no config.yaml: it is no run folder. Name one that is."),
        (("--resume", "{empty}/none"), "{empty}/none: no such run folder."),
    ],
)
def test_what_cannot_be_resumed(run_yaml: Path, tmp_path: Path, arguments, message: str, heterotune) -> None:
    folder = RunFolder.create(load_run(run_yaml), tmp_path / "out", "tiny").path
    (tmp_path / "empty").mkdir()
    names = {"run_yaml": run_yaml, "folder": folder, "empty": tmp_path / "empty"}
    done = heterotune("run", *(argument.format(**names) for argument in arguments))
    assert done.exit_code == 2
    assert message.format(**names) in done.stderr
    assert run_folders(tmp_path) == [folder]


def test_doctor_tells_what_is_wrong(monkeypatch, heterotune) -> None:
    from heterotune.doctor import Check

    checks = [Check("torch", True, "2.13.0"), Check("build locks", False, "a stale lock", "heterotune doctor --fix")]
    monkeypatch.setattr("heterotune.doctor.examine", lambda ds_config, *, fix, say: checks)
    done = heterotune("doctor")
    assert done.exit_code == 1
    assert "-> heterotune doctor --fix" in done.stdout
    monkeypatch.setattr("heterotune.doctor.examine", lambda ds_config, *, fix, say: checks[:1])
    assert heterotune("doctor").exit_code == 0
