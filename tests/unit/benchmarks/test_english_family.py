"""The English family's pure parts: the cut of a BPE, the embeddings' projection, and how public text is read."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

ROOT = Path(__file__).parents[3]
MODULES = ("smollm2", "english_text")
MERGES = [
    ("Ġ", "t"),
    ("h", "e"),
    ("Ġt", "he"),
    ("i", "n"),
    ("Ġ", "c"),
    ("a", "t"),
    ("Ġc", "at"),
    ("in", "g"),
    ("s", "e"),
]


@pytest.fixture(scope="module")
def family() -> Iterator[SimpleNamespace]:
    before, known = list(sys.path), set(sys.modules)
    sys.path[:0] = [str(ROOT / "tools")]
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    sys.path[:] = before
    for name in set(MODULES) - known:
        sys.modules.pop(name, None)


def test_a_prefix_of_the_merges_is_a_tokenizer_of_all_bytes(family):
    byte_pairs = family.smollm2.cut_byte_pairs(MERGES, 1 + 256 + 4)
    assert byte_pairs.merges == tuple(MERGES[:4]) and len(byte_pairs.tokens) == len(set(byte_pairs.tokens)) == 261
    assert byte_pairs.tokens[0] == "<|endoftext|>" and byte_pairs.tokens[-4:] == ("Ġt", "he", "Ġthe", "in")
    tokenizer = family.smollm2.build_tokenizer(byte_pairs)
    encoding = tokenizer.encode("in the cat\tÿ 42<|endoftext|>")
    assert encoding.tokens[:5] == ["in", "Ġthe", "Ġ", "c", "a"] and encoding.ids[-1] == 0
    assert tokenizer.decode(encoding.ids[:-1]) == "in the cat\tÿ 42"
    assert {"4", "2"} <= set(encoding.tokens)


def test_a_rare_word_brings_the_merges_that_lead_to_it_and_is_encoded_as_by_the_whole_tokenizer(family):
    kept = family.smollm2.cut_merges(MERGES, 6, ("cat",))
    assert kept == [*MERGES[:3], *MERGES[4:7]]
    tokens = (
        family.smollm2.build_tokenizer(family.smollm2.cut_byte_pairs(MERGES, 257 + 6, ("cat",))).encode(" cat").tokens
    )
    whole = Tokenizer(models.BPE(vocab=vocab_of(MERGES), merges=MERGES))
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert tokens == whole.encode(" cat").tokens == ["Ġcat"]


def vocab_of(merges) -> dict[str, int]:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return {token: number for number, token in enumerate([*alphabet, *(a + b for a, b in merges)])}


def test_a_word_that_is_no_token_is_refused(family):
    with pytest.raises(ValueError, match="'Ġdog' is no token of the tokenizer that is cut. Leave it out of --words"):
        family.smollm2.cut_merges(MERGES, 6, ("dog",))


def test_embeddings_keep_their_distances_on_the_leading_components(family):
    draw = np.random.default_rng(3)
    source_VD = draw.normal(size=(40, 3)) @ draw.normal(size=(3, 12)) + 5.0  # of rank 3, around another point than 0
    found_Vw = family.smollm2.narrow(source_VD, 3, 0.05, np.random.default_rng(1))
    assert np.sqrt(np.mean(found_Vw**2)) == pytest.approx(0.05) and np.abs(found_Vw.mean(axis=0)).max() < 1e-12
    wanted_VD = source_VD - source_VD.mean(axis=0)
    grams = found_Vw @ found_Vw.T, wanted_VD @ wanted_VD.T
    np.testing.assert_allclose(grams[0] / np.trace(grams[0]), grams[1] / np.trace(grams[1]), atol=1e-12)


def test_each_width_is_turned_by_its_own_draw(family):
    source_VD = np.random.default_rng(3).normal(size=(60, 10))
    first, second = (family.smollm2.narrow(source_VD, 4, 1.0, np.random.default_rng(seed)) for seed in (1, 2))
    assert np.abs(first - second).max() > 0.1
    np.testing.assert_allclose(first @ first.T, second @ second.T, atol=1e-10)


def test_tokens_that_the_source_lacks_get_the_mean(family):
    embedding_VD = np.arange(6, dtype=np.float32).reshape(3, 2)
    rows = family.smollm2.rows_of(("b", "?", "a"), ["a", "b", "c"], embedding_VD)
    np.testing.assert_array_equal(rows, [[2.0, 3.0], [2.0, 3.0], [0.0, 1.0]])


def test_topics_are_a_reverse_dictionary(family, tmp_path):
    line = '00001740 03 n 02 bank_clerk 0 teller 0 001 ~ 00002 n 0000 | one who works in a bank; "ask the teller"  '
    for part in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{part}").write_text(f"  1 a licence\n{line if part == 'noun' else ''}\n", encoding="utf-8")
    assert family.english_text.read_topics(tmp_path) == [
        "Text: one who works in a bank, ask the teller\nTopic: bank clerk"
    ]


def test_glosses_and_questions_are_read_without_what_is_around_them(family):
    lines = [
        "  1 This software is provided as is",
        '00001740 03 n 02 bank_clerk 0 teller(a) 0 001 ~ 00002 n 0000 | one who works in a bank; "ask the teller"  ',
    ]
    assert list(family.english_text.read_glosses(lines)) == [
        ("bank clerk, teller", 'one who works in a bank; "ask the teller"')
    ]
    choice = {
        "instruction": "Please choose the correct answer to the question: Why? Now?\n\nAnswer1: no Answer2: so it is"
        "\n\nAnswer format: answer1/answer2",
        "answer": "answer2",
    }
    assert family.english_text.plain_question(choice) == "Question: Why? Now?\nAnswer: so it is"
    yes_or_no = {
        "instruction": "Please answer the following question with true or false, question: can you?\n\nAnswer format:",
        "answer": "true",
    }
    assert family.english_text.plain_question(yes_or_no) == "Question: can you?\nAnswer: true"
