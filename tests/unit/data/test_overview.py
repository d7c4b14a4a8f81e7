"""Who holds what, in numbers that can be worked out by hand; and its plot."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heterotune.config.data_options import DataConfig
from heterotune.config.record_options import EvaluateConfig
from heterotune.data import corpus as corpus_module
from heterotune.data.client_rows import parted
from heterotune.data.clients_data import FederatedData, build_federated_data
from heterotune.data.document import Document
from heterotune.data.holdings_plot import check_plot_path, counts_of, plot_holdings
from heterotune.data.overview import digest_of, fleet_counts, overview, skew
from heterotune.data.text_tokenizer import TextTokenizer
from heterotune.errors import ConfigError

LN2 = math.log(2)


def _client(rows: int, **labels: int) -> dict[str, Any]:
    return {"client": 0, "model_type": "small", "train_rows": rows, "labels": labels, "owners": {"x": rows}}


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch, word_tokenizer: TextTokenizer) -> FederatedData:
    documents = tuple(
        Document(f"owner {i % 2}", label, prompt="w1 " * (3 + 4 * (i % 3)), response="w2", choices=("a", "b"))
        for i in range(24)
        for label in ("a", "b")
    )
    monkeypatch.setattr(corpus_module, "load_corpus", lambda data: documents)
    config = DataConfig(source="x", max_tokens=8, heldout_fraction=0.25)
    return build_federated_data(config, EvaluateConfig(max_rows=4), word_tokenizer, 2, run_seed=1)


def test_clients_are_listed_with_what_they_hold(data: FederatedData) -> None:
    found = overview(data, ["small", "large"])
    assert [client["model_type"] for client in found["clients"]] == ["small", "large"]
    for client, rows in zip(found["clients"], data.train, strict=True):
        assert (client["documents"], client["train_rows"], client["heldout_rows"]) == (24, 18, 2)
        assert client["train_tokens"] == rows.lengths.sum()
        assert client["owners"] == {data.keys[client["client"]][0]: 18}
        assert client["labels"] == {name: int((rows.labels == i).sum()) for i, name in enumerate(data.label_names)}
        assert client["cut_rows"] == sum(int(length == 8) for length in rows.lengths)  # prompts of 7 and 11 words
        assert client["length_quartiles"][0] == 5 and client["length_quartiles"][-1] == 8
    assert (found["label_names"], found["fleet_heldout_rows"]) == (["a", "b"], 0)
    assert found["digest"] == digest_of(data)


@pytest.mark.parametrize("array", ["input_ids", "targets", "lengths", "labels"])
def test_the_digest_sees_every_value_of_every_row(data: FederatedData, array: str) -> None:
    before = digest_of(data)
    assert digest_of(data) == before
    values = getattr(data.train[1], array)
    values[-1] += 1
    assert digest_of(data) != before
    values[-1] -= 1
    assert digest_of(data) == before
    getattr(data.heldout, array)[0] += 1
    assert digest_of(data) != before


def test_the_digest_sees_to_whom_a_row_belongs(data: FederatedData) -> None:
    before = digest_of(data)
    data.heldout_clients[0] = -1
    assert digest_of(data) != before
    swapped = FederatedData(parted(list(data.train)[::-1]), data.heldout, data.heldout_clients, data.keys, data.dropped)
    assert digest_of(swapped) not in (before, digest_of(data))


def test_skew_of_clients_with_one_label_each() -> None:
    found = skew([_client(10, a=10), _client(10, b=10), _client(0)])
    assert found["label_entropy_nats"] == 0.0
    assert found["fleet_label_entropy_nats"] == pytest.approx(LN2)
    # JS of (1, 0) and (1/2, 1/2): H(3/4, 1/4) - ln 2 / 2
    assert found["jensen_shannon_nats"] == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25) - LN2 / 2)
    assert (found["labels_per_client"], found["largest_rows_share"]) == (1.0, 0.5)
    assert found["rows_coefficient_of_variation"] == 0.0


def test_skew_of_clients_that_are_alike_and_of_sizes_that_are_not() -> None:
    found = skew([_client(10, a=5, b=5), _client(30, a=15, b=15)])
    assert found["jensen_shannon_nats"] == pytest.approx(0.0)
    assert found["label_entropy_nats"] == pytest.approx(LN2)
    assert (found["largest_rows_share"], found["rows_coefficient_of_variation"]) == (0.75, 0.5)
    assert skew([_client(10), _client(10)]) == {"largest_rows_share": 0.5, "rows_coefficient_of_variation": 0.0}
    assert skew([_client(0)]) == {}


def test_labels_of_the_fleet_are_counted_most_first() -> None:
    assert list(fleet_counts([_client(3, b=1, a=1), _client(3, c=2, a=1)], "labels").items()) == [
        ("a", 2),
        ("c", 2),
        ("b", 1),
    ]


def test_rare_labels_are_drawn_together() -> None:
    labels = {f"l{i:02d}": 100 - i for i in range(45)}
    names, counts = counts_of([_client(10, **labels), _client(5, l44=5)], "labels")
    assert (len(names), names[-1]) == (41, "all others")
    assert counts[0].sum() == sum(labels.values())
    assert counts[1].tolist() == [*[0] * 40, 5]


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_plot_is_a_file_of_its_kind(data: FederatedData, tmp_path: Path, suffix: str, start: bytes) -> None:
    plot_holdings(overview(data, ["small", "large"]), tmp_path / f"who.{suffix}")
    assert (tmp_path / f"who.{suffix}").read_bytes().startswith(start)


def test_a_plot_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--plot who\.txt: not a \.png/\.svg/\.pdf file"):
        check_plot_path(Path("who.txt"))
    with pytest.raises(ConfigError, match=r"--plot .*who\.png: there is no folder .*gone"):
        check_plot_path(tmp_path / "gone" / "who.png")


def test_global_heldout_rows_are_nobodys(monkeypatch: pytest.MonkeyPatch, word_tokenizer: TextTokenizer) -> None:
    documents = tuple(Document(f"owner {i % 3}", text=f"w{i} " * 12) for i in range(30))
    monkeypatch.setattr(corpus_module, "load_corpus", lambda data: documents)
    config = DataConfig(source="x", max_tokens=8, heldout="pool", heldout_fraction=0.2)
    data = build_federated_data(config, EvaluateConfig(max_rows=5), word_tokenizer, 3, run_seed=1)
    assert len(data.heldout) == 5
    held = {document.text for document in data.heldout_documents}
    trained = {int(token) for rows in data.train for token in np.unique(rows.input_ids)}
    assert not any(word_tokenizer.encode((text or "").split()[0])[0] in trained for text in held)
    # natural owners: a pool's row belongs to the client that holds the rest of its owner
    for document, client in zip(data.heldout_documents, data.heldout_clients.tolist(), strict=True):
        assert data.keys[client] == (document.key,)
    iid = config.model_copy(update={"partition": config.partition.model_copy(update={"by": "iid"})})
    data = build_federated_data(iid, EvaluateConfig(max_rows=5), word_tokenizer, 3, run_seed=1)
    assert data.heldout_clients.tolist() == [-1] * 5
    assert overview(data, ["small"] * 3)["fleet_heldout_rows"] == 5
