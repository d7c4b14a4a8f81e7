"""Shell completion: commands, options, and the run folders that are here."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from heterotune.cli import app


def completed(line: str, shell: str = "bash") -> list[str]:
    """What a shell is told when somebody presses Tab after `heterotune LINE`."""
    words = f"heterotune {line}"
    environ = {"_HETEROTUNE_COMPLETE": f"complete_{shell}", "COMP_WORDS": words, "_TYPER_COMPLETE_ARGS": words}
    environ["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    environ["COMP_CWORD"] = str(len(words.split()) - (not words.endswith(" ")))
    done = CliRunner().invoke(app, [], prog_name="heterotune", env=environ)
    assert done.exit_code == 0, done.output
    return done.stdout.split()


def test_commands_and_options_are_completed() -> None:
    assert completed("sta") == ["status"]
    assert {"run", "resume"} <= set(completed("r"))
    assert completed("run --ov") == ["--oversubscribe"]
    assert completed("status --fo") == ["--follow"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_the_help_texts_with_it(shell: str) -> None:
    assert "status" in " ".join(completed("st", shell))


def test_run_folders_are_completed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("runs/a-1", "runs/a-2", "runs/other", "single"):
        Path(name).mkdir(parents=True)
    for name in ("runs/a-1", "runs/a-2", "single"):
        Path(name, "config.yaml").touch()
    assert completed("status ru") == ["runs/a-2", "runs/a-1"]
    assert completed("resume runs/a-2") == ["runs/a-2"]
    assert completed("ledger si") == ["single"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_gets_a_script(shell: str, monkeypatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # whatever shell runs the tests
    shown = CliRunner().invoke(app, ["--show-completion", shell], prog_name="heterotune")
    assert shown.exit_code == 0 and f"_HETEROTUNE_COMPLETE=complete_{shell}" in shown.stdout
