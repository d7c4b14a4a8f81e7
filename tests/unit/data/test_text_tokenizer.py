"""The fleet's tokenizer: loading, digest, and refusal of tokenizers that differ."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from heterotune.data.text_tokenizer import TextTokenizer, load_tokenizer
from heterotune.errors import DataError
from heterotune.fleet.model_source import embedded_root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the embedded tokenizer, alone in a folder."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(embedded_root() / name, tmp_path / name)
    return tmp_path


def _edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_text_survives_encoding_and_nothing_is_added(embedded_tokenizer: TextTokenizer) -> None:
    text = "def f(x):\n    return x + 1  # ä ☃\n"
    ids = embedded_tokenizer.encode(text)
    assert embedded_tokenizer.decode([*ids, embedded_tokenizer.eos_id]) == text
    assert embedded_tokenizer.encode_batch([text, ""]) == [ids, []]
    assert (embedded_tokenizer.vocab_size, embedded_tokenizer.eos_id, embedded_tokenizer.bos_id) == (2048, 0, None)


@pytest.mark.parametrize("reference", ["random:hidden_size=64", "embedded:large-2q"])
def test_embedded_and_random_models_use_the_embedded_tokenizer(
    embedded_tokenizer: TextTokenizer, reference: str
) -> None:
    assert load_tokenizer(reference).digest == embedded_tokenizer.digest


def test_padding_and_truncation_of_a_tokenizer_are_switched_off(
    folder: Path, embedded_tokenizer: TextTokenizer
) -> None:
    backend = load_tokenizer(folder).backend
    backend.enable_truncation(3)
    backend.enable_padding(length=20)
    backend.save(str(folder / "tokenizer.json"))
    text = "import os, sys, json, abc"
    assert load_tokenizer(folder).encode(text) == embedded_tokenizer.encode(text)


def test_the_digest_sees_a_changed_vocabulary_and_nothing_else(folder: Path, embedded_tokenizer: TextTokenizer) -> None:
    _edit(folder / "tokenizer_config.json", model_max_length=17)
    assert load_tokenizer(folder / "tokenizer.json").digest == embedded_tokenizer.digest
    backend = load_tokenizer(folder).backend
    backend.add_tokens(["<answer>"])
    backend.save(str(folder / "tokenizer.json"))
    changed = load_tokenizer(folder)
    assert changed.vocab_size == 2049
    assert changed.digest != embedded_tokenizer.digest


def test_special_tokens_come_from_the_files_beside_it(folder: Path, embedded_tokenizer: TextTokenizer) -> None:
    bos = embedded_tokenizer.backend.id_to_token(300)
    _edit(folder / "tokenizer_config.json", bos_token={"content": bos}, eos_token=None)
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (300, 0)


def test_a_tokenizer_without_end_of_sequence_is_refused(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    text = (folder / "tokenizer.json").read_text().replace("<|endoftext|>", "<|nothing|>")
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(DataError, match="has no end-of-sequence token. Name eos_token in tokenizer_config.json"):
        load_tokenizer(folder)


def test_an_unreadable_tokenizer_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match="the tokenizer cannot be read"):
        load_tokenizer(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: the tokenizer cannot be read"):
        load_tokenizer(tmp_path / "empty")


@pytest.mark.parametrize("reference", ["gone", "./gone", "/no/such/folder", "gone/tokenizer.json"])
def test_a_missing_tokenizer_is_named(reference: str) -> None:
    with pytest.raises(DataError, match=f"{reference}: no such tokenizer"):
        load_tokenizer(reference)


def test_a_hub_tokenizer_is_fetched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda hub_id, allow_patterns: str(folder))
    assert load_tokenizer("owner/name").vocab_size == 2048


def test_a_hub_tokenizer_that_cannot_be_fetched_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(DataError, match=r"owner/name: no local tokenizer, and none .*\(offline\)"):
        load_tokenizer("owner/name")
