"""Rows on disk are the rows in memory; they are made once, and made again when anything they depend on changes."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heterotune.config.data_options import DataConfig
from heterotune.config.record_options import EvaluateConfig
from heterotune.data import row_cache
from heterotune.data.clients_data import FederatedData, build_federated_data
from heterotune.data.overview import digest_of
from heterotune.data.row_cache import cache_folder, federated_data
from heterotune.data.text_tokenizer import TextTokenizer
from heterotune.errors import DataError

TYPES = ("small", "small", "large")

pytestmark = pytest.mark.usefixtures("datasets_cache")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return _write(tmp_path / "rows.jsonl", 60)


def _write(path: Path, num_rows: int) -> Path:
    rows = [
        {"who": f"owner {i % 6}", "text": " ".join(f"w{(i * j) % 200}" for j in range(2 + i % 19))}
        for i in range(num_rows)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _config(source: Path, **settings: Any) -> DataConfig:
    given = {
        "source": str(source),
        "fields": {"text": "text"},
        "partition": {"by": "natural", "key": "who"},
        "max_tokens": 8,
        "streaming": True,
        "cache": str(source.parent / "mapped"),
    }
    return DataConfig.model_validate(given | settings)


def _get(config: DataConfig, tokenizer: TextTokenizer, types: Sequence[str] = TYPES, seed: int = 1) -> FederatedData:
    return federated_data(config, EvaluateConfig(max_rows=9), tokenizer, types, run_seed=seed)


SETTINGS: dict[str, dict[str, Any]] = {
    "text": {},
    "capped": {"max_rows_per_client": 4, "heldout_fraction": 0.3},
    "prompts": {"fields": {"prompt": "who", "response": "text"}},
    "classes": {"fields": {"text": "text", "label": "who"}, "partition": {"by": "dirichlet", "alpha": 5.0}},
    "pool": {"heldout": "pool"},
    "dropped": {"partition": {"by": "natural", "key": "who"}, "empty_client": "drop"},
    "drawn alike": {"heldout": "pool", "partition": {"by": "drawn", "rows_per_client": 5}},
    "drawn": {
        "fields": {"text": "text", "label": "who"},
        "heldout": "pool",
        "partition": {"by": "drawn", "rows_per_client": 5, "rows_spread": 0.4, "within": "dirichlet"},
    },
}


@pytest.mark.parametrize("name", SETTINGS)
def test_rows_on_disk_are_the_rows_in_memory(source: Path, word_tokenizer: TextTokenizer, name: str) -> None:
    config = _config(source, **SETTINGS[name])
    types = ["small"] * 8 if name == "dropped" else TYPES
    memory = _get(config.model_copy(update={"streaming": False}), word_tokenizer, types)
    for disk in (_get(config, word_tokenizer, types), _get(config, word_tokenizer, types)):
        assert all(isinstance(rows.input_ids, np.memmap) for rows in disk.train.held())
        for one, other in zip((*memory.train, memory.heldout), (*disk.train, disk.heldout), strict=True):
            for array in ("input_ids", "targets", "lengths", "labels"):
                assert np.array_equal(getattr(one, array), getattr(other, array))
            taken = other.take(np.arange(len(other)))
            assert (taken.input_ids.dtype, taken.targets.dtype, type(taken.lengths)) == (np.int64, np.int64, np.ndarray)
        assert digest_of(dataclasses.replace(disk, known_digest="")) == digest_of(memory) == digest_of(disk)
        assert np.array_equal(disk.heldout_clients, memory.heldout_clients)
        for fact in ("keys", "dropped", "heldout_documents", "label_names", "holdings"):
            assert getattr(disk, fact) == getattr(memory, fact)
        assert disk.holding_of(1) == memory.holding_of(1)


def test_rows_are_made_once(source: Path, word_tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _get(_config(source), word_tokenizer)
    monkeypatch.setattr(row_cache, "build_federated_data", None)
    assert digest_of(_get(_config(source), word_tokenizer)) == digest_of(first)


def test_a_changed_file_seed_or_setting_makes_other_rows(source: Path, word_tokenizer: TextTokenizer) -> None:
    config = _config(source)
    digests = [digest_of(_get(config, word_tokenizer)), digest_of(_get(config, word_tokenizer, seed=2))]
    digests.append(digest_of(_get(_config(source, max_tokens=9), word_tokenizer)))
    _write(source, 61)
    digests.append(digest_of(_get(config, word_tokenizer)))
    assert len(set(digests)) == 4


@pytest.mark.parametrize("harm", ["cut", "remove", "garble"])
def test_a_damaged_folder_is_made_again(source: Path, word_tokenizer: TextTokenizer, harm: str) -> None:
    whole = digest_of(_get(_config(source), word_tokenizer))
    (folder,) = [path for path in cache_folder(_config(source)).iterdir() if path.is_dir()]
    if harm == "cut":
        (folder / "input_ids").write_bytes((folder / "input_ids").read_bytes()[:-4])
    elif harm == "remove":
        (folder / "heldout.npz").unlink()
    else:
        (folder / "manifest.json").write_text('{"train_rows": [3')
    assert digest_of(_get(_config(source), word_tokenizer)) == whole


def test_an_interrupted_making_leaves_nothing_that_is_used(
    source: Path, word_tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, store: Any, **options: Any) -> FederatedData:
        build_federated_data(*arguments, store=store, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(row_cache, "build_federated_data", fail)
        with pytest.raises(KeyboardInterrupt):
            _get(_config(source), word_tokenizer)
    (left,) = [path for path in cache_folder(_config(source)).iterdir() if path.is_dir()]
    assert left.name.endswith(".unfinished")
    _get(_config(source), word_tokenizer)
    assert not left.exists()


def _digest_in_process(config: DataConfig, tokenizer_reference: str) -> str:
    from heterotune.data.text_tokenizer import load_tokenizer

    return digest_of(_get(config, load_tokenizer(tokenizer_reference)))


def test_ranks_that_start_together_share_one_folder(source: Path) -> None:
    config = _config(source)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        digests = pool.starmap(_digest_in_process, [(config, "embedded:small")] * 2)
    assert digests[0] == digests[1]
    assert len([path for path in cache_folder(config).iterdir() if path.is_dir()]) == 1


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HETEROTUNE_CACHE", str(tmp_path))
    assert cache_folder(DataConfig(source="x")) == tmp_path / "rows"
    assert cache_folder(DataConfig(source="x", cache="/there")) == Path("/there/rows")
    monkeypatch.delenv("HETEROTUNE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder(DataConfig(source="x")) == tmp_path / ".cache" / "heterotune" / "rows"


def test_a_cache_that_cannot_be_written_is_named(source: Path, word_tokenizer: TextTokenizer) -> None:
    (source.parent / "mapped").write_text("a file")
    with pytest.raises(DataError, match=r"data\.cache = .*mapped/rows: .*name another folder"):
        _get(_config(source), word_tokenizer)


def test_embedded_text_is_not_streamed(word_tokenizer: TextTokenizer) -> None:
    with pytest.raises(DataError, match=r"data\.streaming does not go with embedded text"):
        _get(DataConfig(source="embedded:stdlib", streaming=True), word_tokenizer)


def test_an_empty_corpus_is_refused_here_too(tmp_path: Path, word_tokenizer: TextTokenizer) -> None:
    (tmp_path / "rows.jsonl").write_text('{"who": "a", "text": ""}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl: the corpus is empty; no row has text"):
        _get(_config(tmp_path / "rows.jsonl"), word_tokenizer)
