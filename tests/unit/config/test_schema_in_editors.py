"""What an editor does with `heterotune schema`: takes every shipped run, marks what a run would refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from heterotune.config.json_schema import run_schema

jsonschema = pytest.importorskip("jsonschema", reason="validates run files as editors do: pip install jsonschema")

ROOT = Path(__file__).parents[3]
SHIPPED_RUNS = sorted(path for path in (ROOT / "launch").rglob("*.yaml") if path.name != "devices.yaml")
VALUES = {
    "name": "tiny",
    "rounds": 2,
    "fleet": [{"name": "small", "model": "embedded:small", "clients": 4}],
    "data": {"source": "embedded:stdlib"},
}


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(run_schema())
    return jsonschema.Draft202012Validator(run_schema())


@pytest.mark.parametrize("path", SHIPPED_RUNS, ids=lambda path: path.name)
def test_the_schema_takes_every_shipped_run(path: Path, validator) -> None:
    validator.validate(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("change", "told"),
    [({"roundz": 1}, "roundz"), ({"rounds": 0}, "less than the minimum"), ({"strategy": "fedsgd"}, "is not one of")],
)
def test_the_schema_refuses_what_a_run_would(change: dict[str, Any], told: str, validator) -> None:
    with pytest.raises(jsonschema.ValidationError, match=told):
        validator.validate(VALUES | change)
