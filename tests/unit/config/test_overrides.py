"""`--set a.b=c`."""

from __future__ import annotations

import re

import pytest

from heterotune.config.overrides import apply_override
from heterotune.config.yaml_text import read_yaml
from heterotune.errors import ConfigError


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a=1e-3", {"a": 1e-3, "b": {"c": 1}, "d": [{"e": 1}, {"e": 2}]}),
        ("b.c=x=y", {"a": None, "b": {"c": "x=y"}, "d": [{"e": 1}, {"e": 2}]}),
        ("a.new.key=[1, 2]", {"a": {"new": {"key": [1, 2]}}, "b": {"c": 1}, "d": [{"e": 1}, {"e": 2}]}),
        ("d.1.e=null", {"a": None, "b": {"c": 1}, "d": [{"e": 1}, {"e": None}]}),
        (" b = {c: 2}", {"a": None, "b": {"c": 2}, "d": [{"e": 1}, {"e": 2}]}),
    ],
)
def test_values(override, expected):
    run = {"a": None, "b": {"c": 1}, "d": [{"e": 1}, {"e": 2}]}
    assert apply_override(run, override) == expected
    assert run == {"a": None, "b": {"c": 1}, "d": [{"e": 1}, {"e": 2}]}


def test_an_aliased_entry_keeps_its_value():
    run, _ = read_yaml("[&x {clients: 1}, *x]", "t")
    assert apply_override(run, "0.clients=5") == [{"clients": 5}, {"clients": 1}]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a", "--set a: not of the form a.b=value. Write it like --set fleet.0.clients=3."),
        ("a\n", "--set 'a\\n': not of the form a.b=value."),
        ("=1", "--set =1: not of the form a.b=value."),
        ("a..b=1", "--set a..b=1: not of the form a.b=value."),
        ("a=[1", "--set a=[1, line 1, column 3: not readable as YAML: "),
        ("a={b: 1, b: 2}", "--set a={b: 1, b: 2}, line 1: the key 'b' is already given above. Keep one of the two."),
        (
            "fleet.2.clients=1",
            "--set fleet.2.clients=1: 2 is not one of the list's 2 entries. Use a number from 0 to 1.",
        ),
        ("fleet.-1.clients=1", "--set fleet.-1.clients=1: -1 is not one of the list's 2 entries."),
        ("fleet.large.clients=1", "--set fleet.large.clients=1: entries go by number. Use 1 for large."),
        ("none.0=1", "--set none.0=1: 0 is not one of the list's 0 entries. Give the whole list instead."),
        ("name.x=1", "--set name.x=1: x would be inside 'demo', which has no keys. Leave it out of"),
        ("name.x.y=1", "--set name.x.y=1: x.y would be inside 'demo', which has no keys. Leave it out of the path, or"),
    ],
)
def test_mistakes(override, message):
    run = {"name": "demo", "fleet": [{"name": "small"}, {"name": "large"}], "none": []}
    with pytest.raises(ConfigError, match="^" + re.escape(message)):
        apply_override(run, override)
