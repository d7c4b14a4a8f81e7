"""The list of strategies: the command, and the page that is made of the same table."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from heterotune.config.load import parse_run
from heterotune.config.methods import METHODS
from heterotune.strategies.strategy import ServerRound, TypeUpdate
from heterotune.strategies_command import markdown_table

PAGE = Path(__file__).parents[2] / "docs" / "strategies.md"


def test_the_command_lists_all_methods(heterotune):
    listed = heterotune("strategies", "--json")
    assert listed.exit_code == 0
    found = {entry["name"]: entry for entry in json.loads(listed.stdout)}
    assert found.keys() == METHODS.keys()
    for name, method in METHODS.items():
        assert (found[name]["summary"], found[name]["source"]) == (method.summary, method.source)
        assert found[name]["form"] == method.form and found[name]["needs"] == method.needs
    shown = heterotune("strategies")
    assert shown.exit_code == 0 and all(name in shown.stdout for name in METHODS)


def test_the_command_loads_no_torch():
    program = "import sys, heterotune.strategies_command; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr


def test_the_page_has_the_table_as_it_is_now():
    assert f"-->\n{markdown_table()}\n<!-- end of the table -->" in PAGE.read_text(), "make it anew: markdown_table()"


@pytest.mark.parametrize("name", METHODS)
def test_the_page_says_what_every_method_trains_and_sends(name):
    rows = re.findall(rf"^\| `{name}` \| .*$", PAGE.read_text().partition("## What trains")[2], re.MULTILINE)
    assert [row.count("|") for row in rows[:1]] == [6], "a row in the table of what travels"


def test_the_pages_example_works(run):
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    assert code.count("\n") < 30
    made: dict = {}
    exec(compile(code, "example", "exec"), made)
    strategy = made["make"](parse_run(run))
    update = TypeUpdate("small", 3, {"w": torch.full((2,), 5.0, dtype=torch.float64)}, 1)
    steps = [strategy.combine([update], ServerRound(round_number=n)).change["w"].tolist() for n in (1, 4, 40)]
    assert steps == [[0.5, 0.5], [2.0, 2.0], [5.0, 5.0]]
    assert strategy.weights == "rows" and not strategy.pools_clients


@pytest.fixture
def run() -> dict:
    """A run file's values."""
    return {
        "name": "example",
        "rounds": 1,
        "fleet": [{"name": "small", "model": "embedded:small", "clients": 2}],
        "data": {"source": "embedded:stdlib"},
    }
