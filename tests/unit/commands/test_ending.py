"""Exit codes: a case of each, and one table that the help, the docs and this test share."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from heterotune.commands.ending import EXIT_CODES, errors_end_the_command, exit_codes_line
from heterotune.errors import ConfigError, RecordError, RunStopped
from heterotune.run_folder import RunFolder

DOCS = Path(__file__).parents[3] / "docs"


def ends_with(heterotune, monkeypatch, run_yaml: Path, tmp_path: Path, end) -> int:
    """The exit code of `heterotune run` whose ranks end in some way."""
    monkeypatch.setattr("heterotune.preflight.check", lambda config: None)
    monkeypatch.setattr("heterotune.launching.local.run_local", end)
    return heterotune("run", run_yaml, "--output", tmp_path / "out").exit_code


def interrupt(folder: RunFolder, num_ranks: int, **options: object) -> int:
    raise KeyboardInterrupt


@pytest.fixture
def ways(heterotune, monkeypatch, run_yaml: Path, tmp_path: Path, summary):
    """Exit code -> a command that ends with it."""

    def finish(folder: RunFolder, num_ranks: int, **options: object) -> int:
        folder.write_summary(summary)
        return 0

    run = (heterotune, monkeypatch, run_yaml, tmp_path)
    return {
        0: lambda: ends_with(*run, finish),
        1: lambda: ends_with(*run, lambda folder, num_ranks, **options: 3),
        2: lambda: heterotune("run", tmp_path / "none.yaml").exit_code,
        75: lambda: ends_with(*run, lambda folder, num_ranks, **options: 75),
        130: lambda: ends_with(*run, interrupt),
    }


@pytest.mark.parametrize("code", EXIT_CODES)
def test_a_case_of_each(code: int, ways) -> None:
    assert ways[code]() == code


def test_plan_ends_with_1_where_a_run_does_not_fit(heterotune, run_yaml: Path) -> None:
    assert heterotune("plan", run_yaml, "--host-memory", "64GiB").exit_code == 0
    assert heterotune("plan", run_yaml, "--host-memory", "300MiB").exit_code == 1


def test_an_unknown_option_or_command_is_2(heterotune) -> None:
    assert heterotune("run", "--rankz", 2).exit_code == heterotune("rum").exit_code == 2


@pytest.mark.parametrize(("error", "code"), [(ConfigError(["a"]), 2), (RecordError("a"), 1), (RunStopped("a"), 75)])
def test_an_error_brings_its_code(error: Exception, code: int, capsys) -> None:
    with pytest.raises(typer.Exit) as ended, errors_end_the_command():
        raise error
    assert ended.value.exit_code == code and capsys.readouterr().err == "error: a\n"


def test_the_help_ends_with_the_table(heterotune) -> None:
    shown = " ".join(heterotune("--help").stdout.split())
    assert " ".join(exit_codes_line().split()) in shown


def test_the_docs_have_the_table() -> None:
    page = (DOCS / "command-line.md").read_text(encoding="utf-8")
    for code, meaning in EXIT_CODES.items():
        assert f"| {code} | {meaning} |" in page
