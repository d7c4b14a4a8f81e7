"""YAML by the 1.2 core schema, with positions in every message."""

from __future__ import annotations

import math

import pytest

from heterotune.config.yaml_text import read_yaml, write_yaml
from heterotune.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1.5E+2", 150.0),
        (".5", 0.5),
        ("-.Inf", -math.inf),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("-3", -3),
        ("no", "no"),
        ("True", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("2024-13-45", "2024-13-45"),
        ("'1'", "1"),
        ("{a: [1, b], <<: c}", {"a": [1, "b"], "<<": "c"}),
        ("embedded:small", "embedded:small"),
        ("&x [1]", [1]),
        ("!!float 3", 3.0),
    ],
)
def test_scalars(text, value):
    got, repeated = read_yaml(text, "t")
    assert (got, repeated) == (value, [])
    assert type(got) is type(value)


def test_nan_is_a_float():
    assert math.isnan(read_yaml(".nan", "t")[0])


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: 1\nb: [1, 2\nc: 3", "t, line 3, column 2: not readable as YAML: while parsing a flow sequence expected"),
        (
            "a: 1\n\tb: 2",
            "t, line 2, column 1: not readable as YAML: while scanning for the next token found character",
        ),
        ("a: 1\n---\nb: 2", "t, line 2, column 1: not readable as YAML: expected a single document"),
        ("a: *x", "t, line 1, column 4: not readable as YAML: found undefined alias 'x'"),
        (
            "a: !!python/name:os.system x",
            "t, line 1, column 4: not readable as YAML: could not determine a constructor",
        ),
        ("a: !!timestamp x", "t, line 1, column 4: not readable as YAML: could not determine a constructor"),
        ("{[1]: 2}", "t, line 1, column 2: not readable as YAML: while constructing a mapping found unhashable key"),
        ("a: !!int x", "t, line 1, column 4: not readable as YAML: this is no number. Correct the text there."),
        ("a: !!bool x", "t, line 1, column 4: not readable as YAML: this is not true or false"),
        ("a: " + "9" * 5000, "t, line 1, column 4: not readable as YAML: this is no number"),
        ("a: \x07", "t: not readable as YAML: unacceptable character"),
        ("[" * 5000, "t, line 1, column 51: not readable as YAML: nested more than 50 levels deep."),
    ],
)
def test_unreadable_text_names_the_place(text, place):
    with pytest.raises(ConfigError) as caught:
        read_yaml(text, "t")
    assert caught.value.problems[0].startswith(place)


def test_every_repeated_key_is_named():
    value, repeated = read_yaml("a: 1\nb: {c: 1, c: 2}\na: 2\n", "run.yaml")
    assert value == {"a": 2, "b": {"c": 2}}
    assert sorted(repeated) == [
        "run.yaml, line 2: the key 'c' is already given above. Keep one of the two.",
        "run.yaml, line 3: the key 'a' is already given above. Keep one of the two.",
    ]


def test_text_that_looks_like_something_else_is_quoted():
    value = {
        "a": ["1e-3", "0x1F", "null", "", "true", ".inf", "no", "<<", "x: y", " z ", "é\u2028\x85"],
        "b": [1e-8, 1.0],
    }
    assert read_yaml(write_yaml(value), "t") == (value, [])
    assert "\n- " in write_yaml([[1], [2]]) and "&" not in write_yaml([value["b"]] * 2)
