"""Partitions: who gets what, and how skewed it is."""

from __future__ import annotations

from collections import Counter

import pytest

from heterotune.config.schema import PartitionConfig
from heterotune.data.corpora import Document
from heterotune.data.partition import partition

SIZES = {"huge": 900, "big": 400, "mid": 300, "small": 200, "tiny": 100, "dot": 10}


def _owned() -> list[Document]:
    """Every owner's text in ten documents, mixed."""
    return [Document(key, key, text="x" * (size // 10)) for _ in range(10) for key, size in SIZES.items()]


def _labelled(num_documents: int, num_labels: int) -> list[Document]:
    return [Document("file", f"label {i % num_labels}", text=f"{i}") for i in range(num_documents)]


def test_natural_owners_stay_whole_and_sizes_are_balanced() -> None:
    parts = partition(_owned(), 3, PartitionConfig(), seed=1)
    owners = {frozenset(document.key for document in part) for part in parts}
    assert owners == {frozenset({"huge"}), frozenset({"big", "tiny", "dot"}), frozenset({"mid", "small"})}


def test_the_seed_decides_which_client_gets_what() -> None:
    documents = _owned()
    layouts = {partition(documents, 3, PartitionConfig(), seed=seed) for seed in range(8)}
    assert len(layouts) > 1
    assert partition(documents, 3, PartitionConfig(), seed=1) == partition(documents, 3, PartitionConfig(), seed=1)


def test_fewer_owners_than_clients_leave_clients_empty() -> None:
    parts = partition(_owned(), 8, PartitionConfig(), seed=1)
    assert sum(not part for part in parts) == 2


def test_iid_deals_evenly() -> None:
    parts = partition(_labelled(103, 2), 4, PartitionConfig(by="iid"), seed=1)
    assert sorted(map(len, parts)) == [25, 26, 26, 26]
    for part in parts:
        assert min(Counter(document.label for document in part).values()) >= 5


def test_corpus_order_is_kept_within_a_client() -> None:
    documents = _labelled(60, 3)
    place = {document.text: i for i, document in enumerate(documents)}
    for part in partition(documents, 4, PartitionConfig(by="dirichlet"), seed=1):
        places = [place[document.text] for document in part]
        assert places == sorted(places)


@pytest.mark.parametrize("seed", range(5))
def test_a_small_alpha_skews_labels_and_a_large_one_does_not(seed: int) -> None:
    documents = _labelled(2000, 10)

    def mean_top_share(alpha: float) -> float:
        parts = partition(documents, 8, PartitionConfig(by="dirichlet", alpha=alpha), seed=seed)
        tops = [Counter(d.label for d in part).most_common(1)[0][1] / len(part) for part in parts]
        return sum(tops) / len(tops)

    assert mean_top_share(0.05) > 0.4
    assert mean_top_share(1000.0) < 0.2


def test_an_endless_alpha_gives_equal_shares_of_every_label() -> None:
    parts = partition(_labelled(160, 2), 8, PartitionConfig(by="dirichlet", alpha=1e12), seed=1)
    assert [Counter(document.label for document in part) for part in parts] == [{"label 0": 10, "label 1": 10}] * 8


@pytest.mark.parametrize("seed", range(5))
def test_dirichlet_draws_again_while_a_client_is_empty(seed: int) -> None:
    parts = partition(_labelled(200, 4), 8, PartitionConfig(by="dirichlet", alpha=0.1), seed=seed)
    assert all(parts)


def test_dirichlet_gives_up_where_a_client_must_stay_empty() -> None:
    parts = partition(_labelled(3, 1), 8, PartitionConfig(by="dirichlet"), seed=1)
    assert sum(map(len, parts)) == 3
