"""The clients' rows: held-out rows, caps, empty clients, public rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heterotune.config.data_options import DataConfig
from heterotune.config.record_options import EvaluateConfig
from heterotune.data import corpus as corpus_module
from heterotune.data.clients_data import FederatedData, build_federated_data, build_public_rows
from heterotune.data.corpora import Document, load_corpus
from heterotune.data.facts import facts_of
from heterotune.data.partition import partition
from heterotune.data.text_tokenizer import TextTokenizer
from heterotune.data.tokenizing import make_rows
from heterotune.errors import DataError


@pytest.fixture
def corpus(monkeypatch: pytest.MonkeyPatch) -> list[Document]:
    """Six owners; owner k has 20 documents of k + 1 words for w(10 k), w(10 k + 1), ..."""
    documents = [
        Document(f"owner {k}", text=" ".join(f"w{10 * k + j}" for j in range(k + 1)))
        for k in range(6)
        for _ in range(20)
    ]
    monkeypatch.setattr(corpus_module, "load_corpus", lambda data: tuple(documents))
    return documents


def _build(
    tokenizer: TextTokenizer, num_clients: int = 6, max_heldout: int = 1000, run_seed: int = 1, **settings: Any
) -> FederatedData:
    data = DataConfig(source="replaced by the fixture", **({"max_tokens": 8} | settings))
    return build_federated_data(data, EvaluateConfig(max_rows=max_heldout), tokenizer, num_clients, run_seed=run_seed)


def _as_set(rows: Any) -> set[bytes]:
    return {ids.tobytes() for ids in rows.input_ids}


def test_a_share_of_every_clients_rows_is_held_out(corpus: list[Document], word_tokenizer: TextTokenizer) -> None:
    data = _build(word_tokenizer, heldout_fraction=0.25)
    for client_id, train in enumerate(data.train):
        num_heldout = int((data.heldout_clients == client_id).sum())
        assert num_heldout == max(1, round(0.25 * (len(train) + num_heldout)))
    assert data.dropped == ()
    assert sorted(data.keys) == [(f"owner {k}",) for k in range(6)]


def test_rows_of_a_client_are_its_own_documents(corpus: list[Document], word_tokenizer: TextTokenizer) -> None:
    data = _build(word_tokenizer)
    for keys, train in zip(data.keys, data.train, strict=True):
        k = int(keys[0].split()[1])
        own = {0, *range(2 + 10 * k, 3 + 10 * k + k)}
        assert set(train.input_ids.flatten().tolist()) <= own


def test_no_row_is_lost_between_train_and_heldout(word_tokenizer: TextTokenizer, corpus: list[Document]) -> None:
    data = _build(word_tokenizer, num_clients=2)
    parts = partition(facts_of(corpus), 2, DataConfig(source="x").partition, seed=1)
    for client_id, part in enumerate(parts):
        num_rows = len(data.train[client_id]) + int((data.heldout_clients == client_id).sum())
        assert num_rows == len(make_rows([corpus[i] for i in part], word_tokenizer, max_tokens=8))


def test_held_out_rows_are_not_trained_on(embedded_tokenizer: TextTokenizer) -> None:
    config = DataConfig(source="embedded:stdlib", max_rows_per_client=12)
    data = build_federated_data(config, EvaluateConfig(), embedded_tokenizer, 32, run_seed=17)
    trained = set().union(*(_as_set(train) for train in data.train))
    assert not trained & _as_set(data.heldout)
    assert [len(train) for train in data.train] == [12] * 32


def test_the_embedded_corpus_is_clearly_not_iid() -> None:
    config = DataConfig(source="embedded:stdlib")
    documents = load_corpus(config)
    parts = partition(facts_of(documents), 32, config.partition, seed=17)
    keys = [{documents[i].key for i in part} for part in parts]
    assert all(keys)
    assert sum(map(len, keys)) == len(set().union(*keys))  # nobody shares a package
    assert sum(len(own) == 1 for own in keys) >= 5


def test_heldout_rows_are_spread_over_clients(corpus: list[Document], word_tokenizer: TextTokenizer) -> None:
    data = _build(word_tokenizer, max_heldout=8, heldout_fraction=0.5)
    assert len(data.heldout) == 8
    assert np.bincount(data.heldout_clients).tolist() == [2, 2, 1, 1, 1, 1]
    assert data.heldout_clients.tolist() == sorted(data.heldout_clients.tolist())


def test_every_heldout_row_has_its_document(corpus: list[Document], word_tokenizer: TextTokenizer) -> None:
    data = _build(word_tokenizer, heldout_fraction=0.5)
    assert len(data.heldout_documents) == len(data.heldout)
    for client_id, document in zip(data.heldout_clients.tolist(), data.heldout_documents, strict=True):
        assert (document.key,) == data.keys[client_id]
    assert data.label_names == ()
    assert set(data.heldout.labels.tolist()) == {-1}


def test_classes_are_the_labels_of_documents_with_choices(
    monkeypatch: pytest.MonkeyPatch, word_tokenizer: TextTokenizer
) -> None:
    documents = tuple(
        Document("owner", label, prompt=f"w{i} w3", response=label, choices=("w8", "w9"))
        for i in range(10)
        for label in ("w9", "w8")
    )
    monkeypatch.setattr(corpus_module, "load_corpus", lambda data: documents)
    data = _build(word_tokenizer, num_clients=1, heldout_fraction=0.5)
    assert data.label_names == ("w8", "w9")
    names = [data.label_names[label] for label in data.heldout.labels.tolist()]
    assert names == [document.label for document in data.heldout_documents]
    assert {label: int((data.train[0].labels == label).sum()) for label in (-1, 0, 1)}[-1] == 0
    for row, label in zip(data.train[0].targets, data.train[0].labels, strict=True):
        assert row[row >= 0][0] == (10, 11)[label]


def test_max_rows_caps_training_rows(corpus: list[Document], word_tokenizer: TextTokenizer) -> None:
    data = _build(word_tokenizer, max_rows_per_client=4, heldout_fraction=0.5)
    assert sorted(len(train) for train in data.train) == [2, 3, 4, 4, 4, 4]  # two owners have only 4 and 7 rows


@pytest.mark.parametrize("max_rows", [1, 2, 4, 5, 9, 10, 30])
def test_the_cap_counts_training_rows_only(embedded_tokenizer: TextTokenizer, max_rows: int) -> None:
    data = DataConfig(source="embedded:stdlib", max_rows_per_client=max_rows)
    built = build_federated_data(data, EvaluateConfig(), embedded_tokenizer, 4, run_seed=1)
    assert [len(train) for train in built.train] == [max_rows] * 4
    assert set(built.heldout_clients) == {0, 1, 2, 3}


def test_a_client_with_two_rows_holds_one_out(monkeypatch: pytest.MonkeyPatch, word_tokenizer: TextTokenizer) -> None:
    documents = tuple(Document(f"owner {k}", text=" ".join(["w1"] * 16)) for k in range(2))
    monkeypatch.setattr(corpus_module, "load_corpus", lambda data: documents)
    data = _build(word_tokenizer, num_clients=2, heldout_fraction=0.1)
    assert ([len(train) for train in data.train], data.heldout_clients.tolist()) == ([1, 1], [0, 1])


def test_the_same_seed_gives_the_same_rows(corpus: list[Document], word_tokenizer: TextTokenizer) -> None:
    one, same, other = (_build(word_tokenizer, run_seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a.input_ids, b.input_ids) for a, b in zip(one.train, same.train, strict=True))
    assert np.array_equal(one.heldout.input_ids, same.heldout.input_ids)
    assert one.keys != other.keys


def test_clients_without_data_are_named(corpus: list[Document], word_tokenizer: TextTokenizer) -> None:
    empty = _build(word_tokenizer, num_clients=8, empty_client="drop").dropped
    assert len(empty) == 2
    message = rf"clients {empty[0]}, {empty[1]} have no data: 120 documents of 6 owners for 8 clients\."
    with pytest.raises(DataError, match=message):
        _build(word_tokenizer, num_clients=8)
    with pytest.raises(DataError, match=r"client \d has no data"):
        _build(word_tokenizer, num_clients=7)
    with pytest.raises(DataError, match=r"clients (\d+, ){8}\.\.\. have no data"):
        _build(word_tokenizer, num_clients=30)


def test_a_dropped_client_keeps_its_number(corpus: list[Document], word_tokenizer: TextTokenizer) -> None:
    data = _build(word_tokenizer, num_clients=8, empty_client="drop")
    assert len(data.train) == len(data.keys) == 8
    for client_id in range(8):
        assert (len(data.train[client_id]) == 0) == (client_id in data.dropped)
        assert (data.keys[client_id] == ()) == (client_id in data.dropped)


def test_nothing_to_hold_out_is_refused(monkeypatch: pytest.MonkeyPatch, word_tokenizer: TextTokenizer) -> None:
    one_row_each = tuple(Document(f"owner {k}", text="w1 w2") for k in range(3))
    monkeypatch.setattr(corpus_module, "load_corpus", lambda data: one_row_each)
    with pytest.raises(DataError, match="No client has two rows or more, so none can be held out"):
        _build(word_tokenizer, num_clients=3)


def test_public_rows_hold_the_tokens_that_were_asked_for(embedded_tokenizer: TextTokenizer) -> None:
    data = DataConfig(source="embedded:stdlib", max_tokens=64)
    rows = build_public_rows(data, embedded_tokenizer, num_tokens=1000, run_seed=3)
    assert 1000 <= (rows.targets >= 0).sum() < 1000 + 64
    again = build_public_rows(data, embedded_tokenizer, num_tokens=1000, run_seed=3)
    assert np.array_equal(rows.input_ids, again.input_ids)


@pytest.mark.usefixtures("datasets_cache")
def test_public_responses_are_counted_not_their_prompts(tmp_path: Path, word_tokenizer: TextTokenizer) -> None:
    rows = [{"ask": "w1 w2 w3 w4", "reply": "w5"} for _ in range(40)]
    (tmp_path / "public.json").write_text(json.dumps(rows))
    settings = {"fields": {"prompt": "ask", "response": "reply"}, "public": str(tmp_path / "public.json")}
    data = DataConfig(source="x", max_tokens=8, **settings)
    enough = build_public_rows(data, word_tokenizer, num_tokens=50, run_seed=3)
    assert 50 <= (enough.targets >= 0).sum() < 80
    assert len(build_public_rows(data, word_tokenizer, num_tokens=5000, run_seed=3)) == 40
    before = build_public_rows(data, word_tokenizer, num_tokens=20, run_seed=3, positions="answer")
    assert before.lengths.tolist() == [5] * 24  # <eos> w1 w2 w3 w4, and nothing after it
    assert ((before.targets >= 0).argmax(axis=1) == 4).all() and ((before.targets >= 0).sum(axis=1) == 1).all()
