"""Data sections and files that nobody should have written: rows, or an error with a name, and soon."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from heterotune.config.data_options import DataConfig
from heterotune.config.record_options import EvaluateConfig
from heterotune.data.row_cache import federated_data
from heterotune.data.text_tokenizer import load_tokenizer
from heterotune.errors import DataError

LIMIT_SECONDS = 20.0
TYPES = ("small", "small", "large")


@pytest.fixture
def mutations(load_file):
    return load_file(Path(__file__).with_name("mutations.py"))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets, "load_dataset", _offline)
    monkeypatch.chdir(tmp_path)
    rows = [
        {"text": f"please {i}", "label": f"intent {i % 3}", "list": ["a", "b"], "answer": i % 2, "owner": f"o{i % 5}"}
        for i in range(30)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows))
    (tmp_path / "play.txt").write_text("".join(f"NAME {i % 4}: {i}\n\n" for i in range(30)))
    (tmp_path / "a.lines").write_text("".join(f"{row['text']}\n" for row in rows))
    (tmp_path / "b.lines").write_text("".join(f"{row['label']}\n" for row in rows))
    (tmp_path / "groups.json").write_text(json.dumps({"even": ["intent 0", "intent 2"], "odd": ["intent 1"]}))
    return tmp_path


def _offline(*arguments: object, **options: object) -> None:
    raise ConnectionError("no network in tests")


SECTIONS = [
    {
        "source": {"lines": {"text": "a.lines", "label": "b.lines"}},
        "fields": {"text": "text", "label": "label", "labels": ["intent 0", "intent 1", "intent 2"]},
        "partition": {"by": "natural", "key": "label", "groups": "groups.json"},
        "template": "Q: {text}\nA:",
        "separator": " ",
        "max_tokens": 32,
        "empty_client": "drop",
    },
    {
        "source": [{"path": "rows.jsonl", "task": "one"}, {"path": "rows.csv", "task": "two"}],
        "test": "rows.csv",
        "fields": {"prompt": "text", "response": "label"},
        "partition": {"by": "task", "within": "dirichlet", "alpha": 1.0},
        "template": "alpaca",
        "max_tokens": 64,
    },
    {
        "source": {"path": "play.txt", "cut": "blank_lines", "pattern": "^(?P<who>[^:]+):"},
        "partition": {"by": "pathological", "key": "who", "labels_per_client": 2, "min_documents": 1},
        "max_tokens": 16,
        "heldout": "pool",
        "streaming": True,
        "cache": "mapped",
    },
    {
        "source": "rows.jsonl",
        "fields": {"question": "text", "choices": "list", "answer": "answer", "letters": True},
        "partition": {"by": "model_type", "key": "owner", "holds": {"small": ["o0", "o1"]}},
        "max_tokens": 48,
    },
]


def _try(section: object, tokenizer: object) -> bool:
    """Return whether a section gave rows; whatever else it gives has a name."""
    began = time.monotonic()
    try:
        data = DataConfig.model_validate(section)
        found = federated_data(data, EvaluateConfig(max_rows=8), tokenizer, TYPES, run_seed=1)
        assert len(found.train) == len(TYPES) and len(found.heldout) > 0
        return True
    except (ValidationError, DataError) as error:
        assert str(error).strip()
        return False
    finally:
        assert time.monotonic() - began < LIMIT_SECONDS, section


@pytest.mark.parametrize("number", range(len(SECTIONS)))
def test_mutated_sections(folder, mutations, number):
    tokenizer = load_tokenizer("embedded:small")
    assert _try(SECTIONS[number], tokenizer)
    for seed in range(round(1000 * mutations.SHARE)):
        _try(mutations.mutated_tree(SECTIONS[number], random.Random(seed)), tokenizer)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "play.txt", "a.lines", "groups.json"])
def test_mutated_files(folder, mutations, name):
    tokenizer = load_tokenizer("embedded:small")
    whole = (folder / name).read_bytes()
    sections = [section for section in SECTIONS if name in json.dumps(section)]
    for seed in range(round(500 * mutations.SHARE)):
        (folder / name).write_bytes(mutations.mutated_bytes(whole, random.Random(seed)))
        _try(sections[seed % len(sections)], tokenizer)


def test_huge_fields_and_odd_values(folder):
    tokenizer = load_tokenizer("embedded:small")
    rows = [{"text": "x " * 500_000, "label": "a"}, {"text": "\u2028\x00\ufeff", "label": "b"}]
    rows += [{"text": str(i), "label": "ab"[i % 2]} for i in range(20)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = {"source": "rows.jsonl", "fields": {"text": "text", "label": "label"}, "partition": {"by": "iid"}}
    assert _try({**section, "max_tokens": 32}, tokenizer)
    for odd in ({"text": {"a": 1}, "label": "a"}, {"text": ["x"], "label": "b"}, {"text": True, "label": 1.5}):
        (folder / "rows.jsonl").write_text("".join(json.dumps(odd) + "\n" for _ in range(6)))
        _try(section, tokenizer)
