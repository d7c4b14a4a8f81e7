"""Fixtures of the data tests."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from heterotune.data.text_tokenizer import TextTokenizer, load_tokenizer

WORDS = ["<eos>", "<unk>", *(f"w{i}" for i in range(200))]


@pytest.fixture(scope="session")
def embedded_tokenizer() -> TextTokenizer:
    return load_tokenizer("embedded:small")


@pytest.fixture
def word_tokenizer() -> TextTokenizer:
    """One token per word w0, w1, ...: w7 is token 9, so expected rows can be written down."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return TextTokenizer(backend, vocab_size=len(WORDS), eos_id=0, bos_id=None, digest="words")
