"""What a run file may say about data, and what is said about what it may not."""

from __future__ import annotations

import re

import pytest

from heterotune.config.data_options import DataConfig, SourceEntry
from heterotune.config.load import parse_run
from heterotune.config.row_fields import (
    ChoiceFields,
    ClassFields,
    InstructionFields,
    MessageFields,
    PromptFields,
    TextFields,
)
from heterotune.config.row_template import filled, placeholders
from heterotune.errors import ConfigError

CASES = [
    ({"source": {}}, "data.source: needs either path or lines. Give {path: FILE_OR_HUB_ID} or"),
    ({"source": {"path": "a", "lines": {"x": "y"}}}, "data.source: needs either path or lines."),
    ({"source": {"lines": {"x": "y"}, "split": "test"}}, "data.source: split does not go with lines. Remove it, or"),
    ({"source": {"lines": {"x": "y"}, "cut": "lines"}}, "data.source: cut does not go with lines."),
    ({"source": [{"pth": "a"}]}, "data.source.0.pth is not a known key. Did you mean path?"),
    ({"source": []}, "data.source = [] has too few entries. Give at least 1."),
    ({"source": 7}, "data.source = 7 is not text. Give text"),
    ({"source": {"path": "a", "task": "a/b"}}, "data.source.task = 'a/b' has characters that do not fit"),
    ({"fields": {"question": "q", "answer": "a"}}, "data.fields: needs either choices or choice_fields. Name the"),
    ({"fields": {"text": "t", "label": "l", "labels": ["a"]}}, "data.fields.labels = ['a'] has too few entries."),
    (
        {"fields": {"instruction": "i"}},
        "data.fields.output is missing. Add it: Name of the field that holds the output",
    ),
    ({"template": "Q: A:"}, "data: template has no {field} in it. Give one of auto, plain, alpaca, chat, or a text"),
    ({"template": "{a"}, "data: template: expected '}' before end of string. Write {field} for a field"),
    ({"template": "{a.b!r}"}, "data: template: a placeholder is a field's name in braces and nothing else, as {quest"),
    ({"template": "{}"}, "data: template: a placeholder is a field's name in braces and nothing else"),
    ({"template": "plain", "fields": {"messages": "m"}}, "data: fields.messages needs template: chat. Give it, or"),
    ({"heldout": "pool", "test": "x.json"}, "data: heldout: pool and test exclude each other. Drop one of the two."),
    ({"partition": {"groups": "g.json"}}, "data.partition: groups needs key. Name the row field whose values the file"),
    ({"partition": {"by": "model_type"}}, "data.partition: by: model_type and holds go together. Give {model type:"),
    ({"partition": {"holds": {"small": ["a"]}}}, "data.partition: by: model_type and holds go together."),
    ({"partition": {"by": "model_type", "holds": {"small": []}}}, "data.partition.holds.small = [] has too few"),
    ({"partition": {"exponent": -1}}, "data.partition.exponent = -1 is too small. Give at least 0"),
    ({"separator": "x" * 101}, "data.separator = "),
]


@pytest.mark.parametrize(("data", "message"), CASES, ids=[message[:50] for _, message in CASES])
def test_one_mistake_gives_one_line(run, data, message):
    run["data"] = {"source": "x.json", **data}
    with pytest.raises(ConfigError, match="^" + re.escape(message)) as caught:
        parse_run(run)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"text": "t"}, TextFields),
        ({"prompt": "p", "response": "r"}, PromptFields),
        ({"instruction": "i", "input": "c", "output": "r"}, InstructionFields),
        ({"messages": "m"}, MessageFields),
        ({"text": "t", "label": "l"}, ClassFields),
        ({"question": "q", "choices": "c", "answer": "a"}, ChoiceFields),
        ({"question": "q", "choice_fields": ["a", "b"], "answer": "a"}, ChoiceFields),
    ],
)
def test_row_formats_are_told_by_their_keys(fields, kind):
    config = DataConfig.model_validate({"source": "x", "fields": fields})
    assert isinstance(config.fields, kind)
    assert DataConfig.model_validate(config.model_dump(mode="json")) == config


def test_a_source_is_a_path_a_mapping_or_a_list_of_these():
    for source in ("x.json", {"path": "x.json"}, ["x.json"], [{"path": "x.json"}]):
        config = DataConfig.model_validate({"source": source})
        assert config.sources == (SourceEntry(path="x.json"),)
        assert DataConfig.model_validate(config.model_dump(mode="json")) == config


def test_templates_are_filled_once():
    template = "{{x}} {a}: {b} {a}"
    assert placeholders(template) == ("a", "b")
    assert filled(template, {"a": "{b}", "b": "{a}"}) == "{x} {b}: {a} {b}"


def test_every_place_is_named_for_those_who_move_a_run():
    data = {
        "source": ["a.json", {"lines": {"x": "b", "y": "/c"}}],
        "test": {"path": "d.json"},
        "partition": {"key": "k", "groups": "g.json"},
        "root": "here",
        "tokenizer": "tok",
    }
    config = DataConfig.model_validate(data)
    assert config.named_places == ("here/a.json", "here/b", "/c", "here/d.json", "here/g.json", "here", "tok")
    assert DataConfig(source="a.json", public="p").named_places == ("a.json", "p")
