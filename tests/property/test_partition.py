"""No sample is lost in a partition, none is given twice; batches are whole permutations; rows lose no token."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from heterotune.config.data_options import PartitionConfig
from heterotune.data.batches import batches
from heterotune.data.document import Document
from heterotune.data.facts import facts_of
from heterotune.data.partition import partition
from heterotune.data.text_tokenizer import TextTokenizer
from heterotune.data.tokenizing import Rows, make_rows

TYPES = ("small", "large")
CONFIGS = st.builds(
    PartitionConfig,
    by=st.sampled_from(["natural", "iid", "dirichlet", "pathological", "quantity", "task"]),
    alpha=st.floats(0.01, 100.0),
    labels_per_client=st.integers(1, 3),
    sizes=st.sampled_from(["dirichlet", "power_law"]),
    exponent=st.floats(0.0, 5.0),
    within=st.sampled_from(["iid", "dirichlet"]),
) | st.builds(
    PartitionConfig,
    by=st.just("model_type"),
    holds=st.just({"small": ("A", "B", "C", "D", "E", "F", "G", "H")}),
    within=st.sampled_from(["iid", "dirichlet"]),
)
SEEDS = st.integers(0, 2**63 - 1)


@st.composite
def corpora(draw: st.DrawFn) -> list[Document]:
    owners = draw(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60))
    return [Document(owner, owner.upper(), text=f"{i}" * (1 + i % 7), task=owner) for i, owner in enumerate(owners)]


@given(documents=corpora(), num_clients=st.integers(1, 40), config=CONFIGS, seed=SEEDS)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_every_document_goes_to_exactly_one_client(
    documents: list[Document], num_clients: int, config: PartitionConfig, seed: int
) -> None:
    facts = facts_of(documents)
    if config.by == "pathological":
        num_labels = len(facts.strata.names)
        assume(config.labels_per_client <= num_labels <= config.labels_per_client * num_clients)
    types = [TYPES[client_id % 2] for client_id in range(num_clients)]
    if config.by == "model_type":
        config = config.model_copy(update={"holds": {"small": facts.strata.names}})
    numbers = partition(facts, num_clients, config, seed=seed, type_of_client=types)
    again = partition(facts_of(documents), num_clients, config, seed=seed, type_of_client=types)
    assert [part.tolist() for part in numbers] == [part.tolist() for part in again]
    assert sorted(number for part in numbers for number in part.tolist()) == list(range(len(documents)))
    assert all(part.tolist() == sorted(part.tolist()) for part in numbers)
    parts = [[documents[number] for number in part] for part in numbers]
    assert len(parts) == num_clients
    if config.by == "pathological":
        assert all(len({document.label for document in part}) <= config.labels_per_client for part in parts)
    if config.by == "natural":
        owners = [owner for part in parts for owner in {document.key for document in part}]
        assert len(owners) == len(set(owners))
    if config.by == "natural" and len({document.key for document in documents}) >= num_clients:
        assert all(parts)
    if config.by in ("iid", "quantity") and len(documents) >= num_clients:
        assert all(parts)


@given(
    num_rows=st.integers(1, 30), batch_size=st.integers(1, 12), num_steps=st.integers(0, 12), seed=SEEDS,
    client_id=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_no_row_is_drawn_twice_before_all_are_drawn_once(
    num_rows: int, batch_size: int, num_steps: int, seed: int, client_id: int
) -> None:
    ids = np.zeros((num_rows, 2), np.int64)
    rows = Rows(ids, ids, np.full(num_rows, 2))
    arguments = {"seed": seed, "round_number": 1, "client_id": client_id}
    picks = batches(rows, batch_size=batch_size, num_steps=num_steps, **arguments)
    assert picks.shape == (num_steps, batch_size)
    counts = np.bincount(picks.flatten(), minlength=num_rows)
    assert len(counts) == num_rows
    assert counts.max() - counts.min() <= 1


@given(texts=st.lists(st.lists(st.integers(0, 19), min_size=1, max_size=40), min_size=1, max_size=8), data=st.data())
@settings(max_examples=100, deadline=None)
def test_rows_hold_every_token_but_a_short_rest(texts: list[list[int]], data: st.DataObject) -> None:
    max_tokens = data.draw(st.integers(8, 24))
    tokenizer = _word_tokenizer()
    documents = [Document("owner", text=" ".join(f"w{i}" for i in text)) for text in texts]
    rows = make_rows(documents, tokenizer, max_tokens=max_tokens)
    stream = [token for text in texts for token in (*(i + 1 for i in text), 0)]
    targets = rows.targets[rows.targets >= 0].tolist()
    assert targets == stream[1 : 1 + len(targets)]
    assert len(stream) - 1 - len(targets) < 8
    assert rows.input_ids[rows.targets >= 0].tolist() == stream[: len(targets)]
    assert rows.lengths.tolist() == (rows.targets >= 0).sum(axis=1).tolist()


def _word_tokenizer() -> TextTokenizer:
    backend = Tokenizer(models.WordLevel({"<eos>": 0, **{f"w{i}": i + 1 for i in range(20)}}, unk_token="<eos>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return TextTokenizer(backend, vocab_size=21, eos_id=0, bos_id=None, digest="words")
