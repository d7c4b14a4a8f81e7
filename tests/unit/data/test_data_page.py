"""docs/data.md: every section in it is one that a run file may have, and every command runs or says what it needs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from heterotune.cli import app
from heterotune.config.data_options import DataConfig

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
SECTIONS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_can_be_read(section: str) -> None:
    DataConfig.model_validate(yaml.safe_load(section))


@pytest.mark.parametrize("command", [line for line in COMMANDS if "# needs" not in line])
def test_every_command_runs(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, *arguments = shlex.split(command, comments=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "launch").symlink_to(ROOT / "launch")
    done = CliRunner().invoke(app, arguments)
    assert (name, done.exit_code) == ("heterotune", 0), done.output
    assert "digest" in done.output


@pytest.mark.parametrize("command", [line for line in COMMANDS if "# needs" in line])
def test_what_needs_data_says_so_before_anything_starts(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "launch").symlink_to(ROOT / "launch")
    done = CliRunner().invoke(app, shlex.split(command, comments=True)[1:])
    assert done.exit_code == 2 and "data.source" in done.output


def test_every_key_is_on_the_page() -> None:
    from heterotune.config.data_options import PartitionConfig, SourceEntry

    keys = [*DataConfig.model_fields, *PartitionConfig.model_fields, *SourceEntry.model_fields]
    known_elsewhere = {"tokenizer", "max_rows_per_client"}
    missing = [key for key in keys if not re.search(rf"\b{key}\b", PAGE) and key not in known_elsewhere]
    assert missing == []
