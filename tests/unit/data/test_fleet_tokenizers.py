"""One tokenizer for all, or each model type its own: who reads which rows."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from heterotune.config.data_options import DataConfig
from heterotune.config.fleet_options import FleetEntry
from heterotune.config.record_options import EvaluateConfig
from heterotune.data.clients_data import FederatedData, build_federated_data
from heterotune.data.fleet_tokenizers import load_fleet_tokenizers, rows_of_types
from heterotune.data.overview import digest_of
from heterotune.data.text_tokenizer import TextTokenizer, load_tokenizer
from heterotune.errors import ModelError
from heterotune.fleet.model_source import embedded_root
from heterotune.fleet.model_types import ModelType, read_model_types

DATA = DataConfig.model_validate({"source": "embedded:stdlib", "max_tokens": 24, "max_rows_per_client": 4})


@pytest.fixture
def fleet() -> tuple[ModelType, ...]:
    entries = (("small", 2), ("large", 1), ("large-2q", 1))
    return read_model_types(tuple(FleetEntry(name=n, model=f"embedded:{n}", clients=c) for n, c in entries))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer that has one token more than the embedded one, which stands in for another."""
    shutil.copy(embedded_root() / "tokenizer_config.json", tmp_path)
    backend = load_tokenizer("embedded:small").backend
    backend.add_tokens(["import"])
    backend.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def with_tokenizer_of(model_type: ModelType, folder: Path) -> ModelType:
    source = dataclasses.replace(model_type.source, reference=str(folder), folder=folder)
    return dataclasses.replace(model_type, source=source, vocab_size=model_type.vocab_size + 1)


def build(tokenizer: TextTokenizer) -> FederatedData:
    return build_federated_data(DATA, EvaluateConfig(max_rows=6), tokenizer, 4, run_seed=3)


def test_the_run_file_names_one_for_all(fleet: tuple[ModelType, ...], folder: Path) -> None:
    wide = tuple(dataclasses.replace(model_type, vocab_size=4096) for model_type in fleet)
    assert {each.digest for each in load_fleet_tokenizers(wide, str(folder))} == {load_tokenizer(folder).digest}


def test_a_fleet_with_one_tokenizer_reads_the_same_rows(fleet: tuple[ModelType, ...]) -> None:
    tokenizers = load_fleet_tokenizers(fleet)
    assert tokenizers[0] is not tokenizers[1] and len({each.digest for each in tokenizers}) == 1
    built = []
    seen = rows_of_types(fleet, tokenizers, lambda tokenizer: built.append(tokenizer) or build(tokenizer))
    assert built == [tokenizers[0]] and seen[0] is seen[1] is seen[2]


def test_every_type_reads_its_own_tokens(fleet: tuple[ModelType, ...], folder: Path) -> None:
    mixed = (fleet[0], with_tokenizer_of(fleet[1], folder), fleet[2])
    tokenizers = load_fleet_tokenizers(mixed)
    seen = rows_of_types(mixed, tokenizers, build)
    first, other = build(tokenizers[0]), build(tokenizers[1])
    assert not np.array_equal(first.heldout.input_ids, other.heldout.input_ids)
    assert [view.heldout.input_ids.tolist() for view in seen] == [
        each.heldout.input_ids.tolist() for each in (first, other, first)
    ]
    expected = [first.train[0], first.train[1], other.train[2], first.train[3]]
    for view in seen:
        assert view.train is seen[0].train and view.dropped == ()
    for rows, wanted in zip(seen[0].train, expected, strict=True):
        assert np.array_equal(rows.input_ids, wanted.input_ids)


def test_what_is_counted_and_the_digest_are_of_the_mixed_rows(fleet: tuple[ModelType, ...], folder: Path) -> None:
    mixed = (fleet[0], with_tokenizer_of(fleet[1], folder), fleet[2])
    tokenizers = load_fleet_tokenizers(mixed)
    marks = {tokenizers[0].digest: 1, tokenizers[1].digest: 2}

    def stored(tokenizer: TextTokenizer) -> FederatedData:
        """As from the disk: with a digest of its own, and here with counts that show whose they are."""
        made = build(tokenizer)
        holdings = tuple(dataclasses.replace(each, num_cut=marks[tokenizer.digest]) for each in made.holdings)
        return dataclasses.replace(made, known_digest=digest_of(made), holdings=holdings)

    seen = rows_of_types(mixed, tokenizers, stored)
    assert [digest_of(view) for view in seen] == [digest_of(view) for view in rows_of_types(mixed, tokenizers, build)]
    for view in seen:
        assert [each.num_cut for each in view.holdings] == [1, 1, 2, 1]


def test_a_model_with_too_small_a_vocabulary_is_refused(fleet: tuple[ModelType, ...]) -> None:
    tiny = dataclasses.replace(fleet[1], vocab_size=512)
    with pytest.raises(ModelError, match=r"large: its vocabulary of 512 is smaller than the tokenizer's 2048 tokens"):
        load_fleet_tokenizers((fleet[0], tiny))
