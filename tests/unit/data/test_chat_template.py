"""Conversations as a tokenizer's own template writes them, and their rows."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from heterotune.data.chat_template import ChatTemplate, read_chat_template
from heterotune.data.document import Document
from heterotune.data.text_tokenizer import TextTokenizer, load_tokenizer
from heterotune.data.tokenizing import make_rows
from heterotune.errors import DataError

CHATML = (
    "{%- for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor -%}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif -%}"
)
LLAMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}[INST] {{ message['content'] }} [/INST]"
    "{% elif message['role'] == 'assistant' %} {{ message['content'] | trim }} {{ eos_token }}"
    "{% else %}{{ raise_exception('no ' ~ message['role']) }}{% endif %}{% endfor %}"
)
TURNS = (("user", "w1 w2"),)
NAMES = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "user", "assistant", "[INST]", "[/INST]")


def _template(source: str) -> ChatTemplate:
    return ChatTemplate(source, (("bos_token", "<s>"), ("eos_token", "</s>")), "/model")


def _tokenizer(template: str | None) -> TextTokenizer:
    words = [*NAMES, "<unk>", *(f"w{i}" for i in range(90))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([AddedToken(name, special=True) for name in NAMES[:4]])
    chat = None if template is None else _template(template)
    return TextTokenizer(backend, vocab_size=len(words), eos_id=1, bos_id=0, digest="chat", chat=chat)


def _ids(tokenizer: TextTokenizer, text: str) -> list[int]:
    return tokenizer.encode(text)


def test_a_conversation_is_written_as_transformers_writes_it() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    for source in (CHATML, LLAMA):
        prompt, answer = _template(source).prompt_and_answer(TURNS, "w3")
        messages = [{"role": "user", "content": "w1 w2"}]
        options = {"chat_template": source, "bos_token": "<s>", "eos_token": "</s>"}
        (theirs,), _ = render_jinja_template(conversations=[messages], add_generation_prompt=True, **options)
        assert prompt == theirs
        messages.append({"role": "assistant", "content": "w3"})
        (theirs,), _ = render_jinja_template(conversations=[messages], add_generation_prompt=False, **options)
        assert prompt + answer == theirs


@pytest.mark.parametrize(
    ("template", "whole", "answer"),
    [
        (CHATML, "<|im_start|> user w1 w2 <|im_end|> <|im_start|> assistant w3 w4 <|im_end|>", "w3 w4 <|im_end|>"),
        (LLAMA, "<s> [INST] w1 w2 [/INST] w3 w4 </s>", "w3 w4 </s>"),
        ("{% for m in messages %}{{ m.content }} {% endfor %}", "w1 w2 w3 w4 </s>", "w3 w4 </s>"),
    ],
)
def test_rows_hold_the_conversation_with_the_loss_on_the_answer(template: str, whole: str, answer: str) -> None:
    tokenizer = _tokenizer(template)
    document = Document("owner", prompt="w1 w2", response="w3 w4", turns=TURNS)
    rows = make_rows([document], tokenizer, max_tokens=16)
    tokens = _ids(tokenizer, whole)
    assert rows.input_ids[0, : len(tokens) - 1].tolist() == tokens[:-1]
    assert rows.targets[0][rows.targets[0] >= 0].tolist() == _ids(tokenizer, answer)
    assert rows.lengths.tolist() == [len(tokens) - 1]


def test_a_long_conversation_keeps_its_begin_token_and_its_answer() -> None:
    tokenizer = _tokenizer(LLAMA)
    long = (("user", " ".join(f"w{i}" for i in range(40))),)
    rows = make_rows([Document("owner", prompt="x", response="w3", turns=long)], tokenizer, max_tokens=8)
    assert rows.input_ids[0].tolist() == _ids(tokenizer, "<s> w35 w36 w37 w38 w39 [/INST] w3")
    assert rows.targets[0][rows.targets[0] >= 0].tolist() == _ids(tokenizer, "w3 </s>")


def test_without_a_chat_template_a_conversation_is_refused() -> None:
    with pytest.raises(DataError, match=r"data\.template = chat, but the tokenizer has no chat template\. Give"):
        make_rows([Document("owner", prompt="x", response="w3", turns=TURNS)], _tokenizer(None), max_tokens=8)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ messages[9].content }}", "cannot write a conversation .UndefinedError"),
        ("{% if %}", "cannot write a conversation .TemplateSyntaxError"),
        ("{{ ''.__class__.__mro__ }}", "cannot write a conversation .SecurityError"),
        ("{{ raise_exception('no system role') }}", "cannot write a conversation .TemplateError: no system role"),
        ("{{ 1 / 0 }}", "cannot write a conversation .ZeroDivisionError"),
        ("{{ messages | length }}", "writes the question differently once the answer is there"),
    ],
)
def test_a_template_that_does_not_work_is_refused(source: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"/model: the chat template {message}"):
        _template(source).prompt_and_answer(TURNS, "w3")


def test_the_template_is_found_in_every_place(tmp_path: Path) -> None:
    tokens = {"bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    found = read_chat_template(tmp_path, {"chat_template": "one", **tokens})
    assert found == ChatTemplate("one", (("bos_token", "<s>"), ("eos_token", "</s>")), str(tmp_path))
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "two"}]
    found = read_chat_template(tmp_path, {"chat_template": named})
    assert found is not None and found.source == "two"
    assert read_chat_template(tmp_path, tokens) is None
    assert read_chat_template(tmp_path, {"chat_template": 7}) is None
    (tmp_path / "chat_template.jinja").write_text("three")
    found = read_chat_template(tmp_path, {"chat_template": "one"})
    assert found is not None and found.source == "three"
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"chat_template\.jinja: cannot be read"):
        read_chat_template(tmp_path, {})


def test_a_folder_of_a_tokenizer_brings_its_template(tmp_path: Path) -> None:
    _tokenizer(None).backend.save(str(tmp_path / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": CHATML}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.chat is not None and tokenizer.chat.source == CHATML
    assert dataclasses.replace(tokenizer, chat=None).digest == tokenizer.digest


def test_choices_stand_after_the_same_prompt(word_tokenizer: TextTokenizer) -> None:
    words = " ".join(f"w{i}" for i in range(30))
    document = Document("owner", "a", prompt=words, response="w90", choices=("w90", "w91 w92 w93"))
    rows = make_rows(
        [dataclasses.replace(document, response=choice) for choice in document.choices], word_tokenizer, max_tokens=8
    )
    starts = [
        row[: int((targets == -100).sum() - (8 - length)) + 1].tolist()
        for row, targets, length in zip(rows.input_ids, rows.targets, rows.lengths, strict=True)
    ]
    assert starts[0] == starts[1] == [0, 28, 29, 30, 31]
    assert [targets[targets >= 0].tolist() for targets in rows.targets] == [[92, 0], [93, 94, 95, 0]]


def test_a_choice_that_fills_a_row_is_refused(word_tokenizer: TextTokenizer) -> None:
    document = Document("owner", "a", prompt="w1 w2", response="w1", choices=("w1", "w1 w2 w3 w4 w5 w6 w7 w8"))
    with pytest.raises(
        DataError, match=r"max_tokens = 8 leaves no room .* longest choice of 'w1 w2', 8 tokens\. Raise"
    ):
        make_rows([document], word_tokenizer, max_tokens=8)


def test_the_loss_can_be_on_all_tokens(word_tokenizer: TextTokenizer) -> None:
    document = Document("owner", prompt="w0 w1", response="w8", separator=" ")
    rows = make_rows([document], word_tokenizer, max_tokens=8, loss="all")
    assert rows.targets[0].tolist() == [2, 3, 10, 0, -100, -100, -100, -100]
