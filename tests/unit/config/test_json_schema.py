"""The schema for editors, and the page and the commented run file that are made from it."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from heterotune.config.commented_yaml import commented_run
from heterotune.config.json_schema import run_reference, run_schema
from heterotune.config.load import load_run, parse_run
from heterotune.config.schema import RunConfig

ROOT = Path(__file__).parents[3]
VALUES = {
    "name": "tiny",
    "rounds": 2,
    "fleet": [{"name": "small", "model": "embedded:small", "clients": 4}],
    "data": {"source": "embedded:stdlib", "partition": {"by": "iid"}},
    "local": {"steps": 5, "betas": [0.8, 0.9]},
}


def test_every_key_is_described() -> None:
    """Editors show it, and `docs/configuration.md` is nothing else."""
    schema = run_schema()
    sections = {"": schema, **schema["$defs"]}
    bare = [
        f"{place}.{name}"
        for place, section in sections.items()
        for name, field in section["properties"].items()
        if not (field.get("description") or "$ref" in field)
    ]
    assert bare == []


def test_the_page_is_fresh() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == run_reference(), "write it with `heterotune schema --markdown --out docs/configuration.md`"


def test_the_page_has_every_key_once() -> None:
    page = run_reference()
    assert page.count("## `data.partition`") == 1
    assert "| `alpha` | number > 0 | `0.3` | Dirichlet concentration, above 0; small = skewed. |" in page
    assert all(f"| `{name}` |" in page for name in RunConfig.model_fields)


def test_a_commented_run_is_the_run() -> None:
    text = commented_run(VALUES)
    assert parse_run(yaml.safe_load(text)) == parse_run(VALUES)
    assert "# Optimiser steps of a client per round, at least 1" in text


def test_taking_every_comment_sign_away_changes_nothing(tmp_path: Path) -> None:
    """What a comment shows is the key in its place with its default."""
    a_key = re.compile(r"^( *)# ((?:  )*(?:\w+:(?: |$)|# ).*)")
    path = tmp_path / "run.yaml"
    path.write_text("\n".join(a_key.sub(r"\1\2", line) for line in commented_run(VALUES).split("\n")))
    assert len(re.findall(r"^ *\w+:", path.read_text(), re.MULTILINE)) > 60
    assert load_run(path) == parse_run(VALUES)
