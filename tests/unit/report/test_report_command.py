"""`heterotune report` and `heterotune compare` write what they say, and refuse what they cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heterotune.cli import app

ENGINE = Path(__file__).parents[3] / "engine"


def heterotune(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_page_is_written_into_the_run_folder(make_bare_run) -> None:
    path = make_bare_run()
    result = heterotune("report", path)
    assert result.exit_code == 0, result.output
    assert f"wrote {path / 'report.html'} (0." in result.output
    assert (path / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert [each.name for each in path.iterdir() if each.name.startswith(".report")] == []


def test_page_and_plots_go_where_they_are_wanted(make_bare_run, tmp_path) -> None:
    path = make_bare_run()
    result = heterotune("report", path, "--out", tmp_path / "new/page.html", "--plots", tmp_path / "plots")
    assert result.exit_code == 0 and not (path / "report.html").exists()
    assert (tmp_path / "new/page.html").is_file() and (tmp_path / "plots/learning-curves.png").is_file()
    assert "files into" in result.output


def test_what_is_missing_is_told_and_the_page_is_there(make_bare_run) -> None:
    path = make_bare_run()
    result = heterotune("report", path)
    assert result.exit_code == 0 and "missing: heterotune: There is no ledger.jsonl" in result.output


def test_what_is_no_run_folder_ends_with_2(tmp_path) -> None:
    assert heterotune("report", tmp_path).exit_code == 2
    result = heterotune("compare", tmp_path)
    assert result.exit_code == 2 and "neither a run folder nor a folder of run folders" in result.output


def test_where_nothing_can_be_written_it_says_so(make_bare_run, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    result = heterotune("report", make_bare_run(), "--out", tmp_path / "file" / "page.html")
    assert result.exit_code == 2 and "Name a place that can be written to with --out and --plots." in result.output
    result = heterotune("compare", tmp_path / "run", "--csv", tmp_path / "file" / "figures.csv")
    assert result.exit_code == 2 and "Name a file that can be written with --csv." in result.output


def test_compare_prints_a_table_and_writes_page_figures_and_plots(make_bare_run, tmp_path) -> None:
    runs = [make_bare_run(f"seed-{seed}", seed=seed) for seed in (1, 2)]
    paths = {name: tmp_path / name for name in ("page.html", "figures.csv", "plots")}
    wanted = ("--out", paths["page.html"], "--csv", paths["figures.csv"], "--plots", paths["plots"])
    result = heterotune("compare", *runs, *wanted)
    assert result.exit_code == 0, result.output
    assert "2.9500 ± 0.0707" in result.output
    assert all(path.exists() for path in paths.values()) and (paths["plots"] / "final-loss.csv").is_file()


def test_compare_prints_json_and_nothing_else(make_bare_run, tmp_path) -> None:
    result = heterotune("compare", make_bare_run(), "--json", "--csv", tmp_path / "figures.csv")
    assert json.loads(result.stdout)["groups"][0]["label"] == "heterotune"


@pytest.mark.parametrize("module", ["heterotune.report_command", "heterotune.compare_command"])
def test_a_report_needs_no_torch(module) -> None:
    heavy = ("torch", "mpi4py", "deepspeed", "transformers", "matplotlib", "jinja2")
    program = f"import sys, {module}; print(sorted(set({heavy!r}) & set(sys.modules)))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env={"PYTHONPATH": str(ENGINE)}, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
