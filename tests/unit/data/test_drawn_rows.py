"""Clients that draw their rows from a pool: which rows, how many, whose labels, and that nothing is kept per client."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from heterotune.config.data_options import DataConfig, PartitionConfig
from heterotune.config.record_options import EvaluateConfig
from heterotune.data import corpus as corpus_module
from heterotune.data.clients_data import FederatedData, build_federated_data
from heterotune.data.document import Document
from heterotune.data.drawn_rows import drawn_sizes
from heterotune.data.overview import MOST_LISTED, digest_of, overview
from heterotune.data.text_tokenizer import TextTokenizer
from heterotune.errors import DataError

LABELS = ("a", "b", "c", "d")


def documents(labels: tuple[str | None, ...] = LABELS) -> tuple[Document, ...]:
    return tuple(
        Document(f"owner {i % 3}", label, prompt=f"w{i} w{k}", response="w2", choices=labels if label else ())
        for k, label in enumerate(labels)
        for i in range(40)
    )


@pytest.fixture(autouse=True)
def corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "load_corpus", lambda data: documents())


def build(tokenizer: TextTokenizer, num_clients: int = 6, run_seed: int = 1, **partition: Any) -> FederatedData:
    chosen = PartitionConfig(**{"by": "drawn", "rows_per_client": 12, **partition})
    data = DataConfig(source="x", max_tokens=8, heldout="pool", heldout_fraction=0.25, partition=chosen)
    return build_federated_data(data, EvaluateConfig(max_rows=20), tokenizer, num_clients, run_seed=run_seed)


def rows_of(data: FederatedData) -> list[list[list[int]]]:
    return [rows.input_ids.tolist() for rows in data.train]


def test_a_client_draws_rows_of_the_pool_by_seed_and_id(word_tokenizer: TextTokenizer) -> None:
    data = build(word_tokenizer)
    pool = {tuple(ids) for ids in data.train.pool.input_ids.tolist()}
    assert len(data.train.pool) == 120 and data.train.num_rows.tolist() == [12] * 6
    for rows in rows_of(data):
        assert len({tuple(ids) for ids in rows}) == 12 and {tuple(ids) for ids in rows} <= pool
    assert len({str(rows) for rows in rows_of(data)}) == 6
    assert rows_of(build(word_tokenizer)) == rows_of(data) != rows_of(build(word_tokenizer, run_seed=2))
    assert rows_of(build(word_tokenizer, num_clients=9))[:6] == rows_of(data), "more clients change nobody's rows"


def test_nobody_trains_on_a_held_out_row(word_tokenizer: TextTokenizer) -> None:
    data = build(word_tokenizer, num_clients=40)
    trained = {tuple(ids) for rows in rows_of(data) for ids in rows}
    assert len(data.heldout) == 20 and not trained & {tuple(ids) for ids in data.heldout.input_ids.tolist()}
    assert set(data.heldout_clients.tolist()) == {-1}


def test_more_rows_than_the_pool_has_are_drawn_with_repeats(word_tokenizer: TextTokenizer) -> None:
    assert [len(rows) for rows in build(word_tokenizer, num_clients=2, rows_per_client=300).train] == [300, 300]


def test_mixtures_are_skewed_as_alpha_says(word_tokenizer: TextTokenizer) -> None:
    largest = {}
    for alpha in (0.05, 100.0):
        data = build(word_tokenizer, num_clients=60, within="dirichlet", alpha=alpha, rows_per_client=20)
        counts = np.array([np.bincount(rows.labels, minlength=4) for rows in data.train])
        assert (counts.sum(axis=1) == 20).all()
        assert counts.sum(axis=0).min() > 0.1 * counts.sum(), "over many clients all labels come"
        largest[alpha] = float(counts.max(axis=1).mean() / 20)
    assert largest[0.05] > 0.85 and largest[100.0] < 0.5


def test_sizes_are_log_normal_around_the_median() -> None:
    config = PartitionConfig(by="drawn", rows_per_client=50, rows_spread=0.5)
    sizes = drawn_sizes(config, 20_000, run_seed=3)
    assert abs(np.median(sizes) - 50) <= 1 and np.log(sizes).std() == pytest.approx(0.5, rel=0.03)
    assert np.array_equal(drawn_sizes(config, 100, run_seed=3), sizes[:100])
    tiny = PartitionConfig(by="drawn", rows_per_client=1, rows_spread=3.0)
    assert drawn_sizes(tiny, 1000, run_seed=3).min() == 1


def test_a_million_clients_take_no_more_memory_than_a_thousand(word_tokenizer: TextTokenizer) -> None:
    small, large = (build(word_tokenizer, num_clients=number) for number in (1_000, 1_000_000))
    assert rows_of(small)[7] == large.train[7].input_ids.tolist()
    held = [sum(rows.input_ids.nbytes for rows in data.train.held()) for data in (small, large)]
    assert held[0] == held[1] and large.train.num_rows.strides == (0,)
    assert (large.keys, large.holdings, large.dropped) == ((), (), ())
    tracemalloc.start()
    for client_id in range(999_000, 999_200):
        large.train[client_id]
    assert tracemalloc.get_traced_memory()[0] < 100_000, "what a client draws is not kept"
    tracemalloc.stop()


def test_of_a_large_fleet_a_sample_is_listed(word_tokenizer: TextTokenizer) -> None:
    found = overview(build(word_tokenizer, num_clients=100_000), ["m"] * 100_000)
    assert (found["num_clients"], found["num_train_rows"]) == (100_000, 1_200_000)
    assert found["rows_quantiles"]["0.5"] == 12 and len(found["clients"]) == 1_000
    assert [client["client"] for client in found["clients"][:3]] == [0, 100, 200]
    assert len(overview(build(word_tokenizer), ["m"] * 6)["clients"]) == 6 < MOST_LISTED


def test_what_a_client_holds_is_counted_on_demand(word_tokenizer: TextTokenizer) -> None:
    data = build(word_tokenizer)
    held, rows = data.holding_of(3), data.train[3]
    assert (held.num_documents, held.num_tokens, held.num_cut) == (12, int(rows.lengths.sum()), 0)
    assert held.labels == {LABELS[k]: int(count) for k, count in enumerate(np.bincount(rows.labels)) if count}
    assert sum(held.owners.values()) == 12 and set(held.owners) <= {"owner 0", "owner 1", "owner 2"}


def test_the_digest_sees_who_draws_what(word_tokenizer: TextTokenizer) -> None:
    variants = [
        {}, {"run_seed": 2}, {"num_clients": 7}, {"rows_per_client": 13}, {"rows_spread": 0.1},
        {"within": "dirichlet"}, {"within": "dirichlet", "alpha": 0.5},
    ]  # fmt: skip
    assert len({digest_of(build(word_tokenizer, **variant)) for variant in variants}) == len(variants)
    assert digest_of(build(word_tokenizer)) == digest_of(build(word_tokenizer))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heldout": "clients"}, r"hold rows in common.*Set heldout: pool, or name a test source"),
        ({"max_rows_per_client": 5}, r"max_rows_per_client = 5 does not go with partition.by: drawn"),
        ({"partition": {"by": "drawn"}}, r"by: drawn and rows_per_client go together"),
        ({"partition": {"by": "iid", "rows_per_client": 3}}, r"by: drawn and rows_per_client go together"),
        ({"partition": {"by": "iid", "rows_spread": 0.5}}, r"rows_spread = 0.5 needs by: drawn"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], message: str) -> None:
    given = {"source": "x", "heldout": "pool", "partition": {"by": "drawn", "rows_per_client": 4}, **settings}
    with pytest.raises(ValidationError, match=message):
        DataConfig.model_validate(given)


def test_mixtures_need_labels(monkeypatch: pytest.MonkeyPatch, word_tokenizer: TextTokenizer) -> None:
    monkeypatch.setattr(corpus_module, "load_corpus", lambda data: documents((None,)))
    with pytest.raises(DataError, match="within = dirichlet draws from labels, and the corpus has fewer than two"):
        build(word_tokenizer, within="dirichlet")


def test_a_pool_needs_rows(monkeypatch: pytest.MonkeyPatch, word_tokenizer: TextTokenizer) -> None:
    empty = tuple(Document(f"owner {k}", text="") for k in range(2))
    monkeypatch.setattr(corpus_module, "load_corpus", lambda data: empty)
    with pytest.raises(DataError, match="by = drawn: the corpus has no rows to draw from"):
        build(word_tokenizer)
