"""`heterotune schema`: JSON for editors, Markdown for people, to the terminal or a file."""

from __future__ import annotations

import json
from pathlib import Path

from heterotune.config.json_schema import run_reference, run_schema


def test_it_prints_json_or_markdown(heterotune) -> None:
    assert json.loads(heterotune("schema").stdout) == run_schema()
    assert heterotune("schema", "--markdown").stdout == run_reference()


def test_it_writes_a_file(tmp_path: Path, heterotune) -> None:
    done = heterotune("schema", "--out", tmp_path / "run.schema.json")
    assert (done.exit_code, done.output) == (0, "")
    assert json.loads((tmp_path / "run.schema.json").read_text()) == run_schema()


def test_a_file_that_cannot_be_written(tmp_path: Path, heterotune) -> None:
    done = heterotune("schema", "--out", tmp_path / "none" / "schema.json")
    assert done.exit_code == 2
    assert "cannot be written (No such file or directory). Choose another --out." in done.stderr
