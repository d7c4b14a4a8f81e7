"""Partitions: who gets what, and how skewed it is."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from heterotune.config.data_options import PartitionConfig
from heterotune.data import partition as partition_module
from heterotune.data.document import Document
from heterotune.data.facts import facts_of
from heterotune.errors import DataError

SIZES = {"huge": 900, "big": 400, "mid": 300, "small": 200, "tiny": 100, "dot": 10}


Parts = tuple[tuple[Document, ...], ...]


def partition(documents: list[Document], num_clients: int, config: PartitionConfig, **options: Any) -> Parts:
    numbers = partition_module.partition(facts_of(documents), num_clients, config, **options)
    return tuple(tuple(documents[number] for number in part) for part in numbers)


def _labels(parts: Parts) -> list[Counter]:
    return [Counter(document.label for document in part) for part in parts]


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


def test_dirichlet_draws_again_until_every_client_has_enough() -> None:
    config = PartitionConfig(by="dirichlet", alpha=0.5, min_documents=20)
    assert min(map(len, partition(_labelled(400, 4), 8, config, seed=1))) >= 20


def test_a_client_below_the_least_is_named() -> None:
    config = PartitionConfig(by="dirichlet", min_documents=30)
    with pytest.raises(
        DataError, match=r"min_documents = 30: of 8 clients \d have fewer documents \(\d.*\)\. Lower it"
    ):
        partition(_labelled(200, 4), 8, config, seed=1)


@pytest.mark.parametrize("labels_per_client", [1, 2, 3, 5])
def test_pathological_clients_hold_k_labels_in_equal_parts(labels_per_client: int) -> None:
    config = PartitionConfig(by="pathological", labels_per_client=labels_per_client)
    parts = _labels(partition(_labelled(600, 5), 10, config, seed=1))
    assert {len(part) for part in parts} == {labels_per_client}
    for label in ("label 0", "label 4"):
        held = [part[label] for part in parts if part[label]]
        assert len(held) == 2 * labels_per_client and max(held) - min(held) <= 1


def test_pathological_clients_do_not_all_hold_the_same_pairs() -> None:
    parts = _labels(partition(_labelled(600, 4), 12, PartitionConfig(by="pathological"), seed=1))
    assert len({frozenset(part) for part in parts}) > 2


def test_pathological_needs_enough_labels_and_clients() -> None:
    with pytest.raises(DataError, match=r"labels_per_client = 6 is more than the corpus's 5 labels"):
        partition(_labelled(60, 5), 4, PartitionConfig(by="pathological", labels_per_client=6), seed=1)
    with pytest.raises(DataError, match=r"labels_per_client = 1: 4 clients hold 4 labels at most, fewer than the corp"):
        partition(_labelled(60, 5), 4, PartitionConfig(by="pathological", labels_per_client=1), seed=1)


def test_quantity_by_power_law_has_the_sizes_of_the_law() -> None:
    config = PartitionConfig(by="quantity", sizes="power_law", exponent=1.0, min_documents=10)
    sizes = sorted(map(len, partition(_labelled(2540, 2), 4, config, seed=1)), reverse=True)
    assert sizes == [1210, 610, 410, 310]  # 10 each and 2500 in shares of 12, 6, 4 and 3 to 25


def test_quantity_by_dirichlet_is_skewed_in_size_and_not_in_labels() -> None:
    parts = partition(_labelled(4000, 2), 8, PartitionConfig(by="quantity", alpha=0.5, min_documents=5), seed=3)
    sizes = sorted(map(len, parts))
    assert sizes[0] >= 5 and sizes[-1] > 4 * sizes[2]
    largest = _labels([max(parts, key=len)])[0]
    assert abs(largest["label 0"] / largest.total() - 0.5) < 0.1


def _tasked(**sizes: int) -> list[Document]:
    return [Document("file", task=task, text="x") for task, size in sizes.items() for _ in range(size)]


def test_by_task_every_client_has_one_task_and_large_tasks_have_more_clients() -> None:
    documents = _tasked(boolq=600, arc=200, piqa=10)
    parts = partition(documents, 5, PartitionConfig(by="task"), seed=1)
    tasks = Counter(document.task for part in parts for document in part[:1])
    assert all(len({document.task for document in part}) == 1 for part in parts)
    assert tasks == {"boolq": 3, "arc": 1, "piqa": 1}
    assert [len(part) for part in parts if part[0].task == "boolq"] == [200] * 3


def test_by_task_with_fewer_clients_tasks_stay_whole() -> None:
    parts = partition(_tasked(a=6, b=3, c=3), 2, PartitionConfig(by="task"), seed=1)
    assert sorted(sorted({document.task for document in part}) for part in parts) == [["a"], ["b", "c"]]


def test_by_model_type_some_labels_never_reach_a_type() -> None:
    types = ["small"] * 3 + ["large"] * 3
    config = PartitionConfig(by="model_type", holds={"small": ["label 0", "label 1"]})
    parts = _labels(partition(_labelled(300, 3), 6, config, seed=1, type_of_client=types))
    assert all(set(part) == {"label 0", "label 1"} for part in parts[:3])
    assert all(set(part) == {"label 0", "label 1", "label 2"} for part in parts[3:])
    assert sum(part["label 2"] for part in parts) == 100
    skewed = config.model_copy(update={"within": "dirichlet", "alpha": 0.1})
    assert _labels(partition(_labelled(300, 3), 6, skewed, seed=1, type_of_client=types)) != parts


def test_what_model_types_may_hold_is_checked_and_all_is_told() -> None:
    config = PartitionConfig(by="model_type", holds={"small": ["label 0", "lable 1"], "lrage": ["label 2"]})
    with pytest.raises(DataError) as caught:
        partition(_labelled(30, 3), 4, config, seed=1, type_of_client=["small"] * 4)
    assert str(caught.value).split("\n") == [
        "data.partition.holds.lrage is no model type of the fleet. There is: small.",
        "data.partition.holds.small: 'lable 1' is no label of the corpus. Did you mean label 1?",
        "data.partition.holds leaves label 1, label 2 to no model type, and no document may be lost. Give them to one.",
    ]


def test_a_stratum_is_divided_instead_of_the_label() -> None:
    documents = [Document("file", f"label {i}", text="x", stratum=f"group {i % 2}") for i in range(40)]
    parts = partition(documents, 2, PartitionConfig(by="pathological", labels_per_client=1), seed=1)
    assert all(len({document.stratum for document in part}) == 1 for part in parts)
