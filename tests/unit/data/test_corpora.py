"""Documents and their owners, from every source; and messages about fields that are not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from heterotune.config.data_options import DataConfig
from heterotune.data.corpora import Document, load_corpus, load_public, public_texts
from heterotune.data.stdlib_source import PUBLIC_MODULES
from heterotune.errors import DataError

ROWS = [
    {"ask": "why", "reply": "so", "topic": "cause", "year": 1999, "tags": ["a"]},
    {"ask": "who", "reply": "me", "topic": "person", "year": 2001, "tags": ["b"]},
    {"ask": "hm", "reply": "", "topic": "none", "year": 2001, "tags": ["b"]},
    {"ask": None, "reply": "what", "topic": "none", "year": 2001, "tags": []},
]
ASK = {"prompt": "ask", "response": "reply"}

pytestmark = pytest.mark.usefixtures("datasets_cache")


@pytest.fixture
def rows_file(tmp_path: Path) -> str:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(tmp_path / "rows.jsonl")


def _load(source: str, **settings: Any) -> tuple[Document, ...]:
    return load_corpus(DataConfig(source=source, **settings))


def test_prompts_with_natural_owners_leave_out_rows_without_text(rows_file: str) -> None:
    documents = _load(rows_file, fields=ASK, partition={"by": "natural", "key": "topic"})
    assert documents == (
        Document("cause", "cause", prompt="why", response="so"),
        Document("person", "person", prompt="who", response="me"),
    )


def test_a_dirichlet_key_is_the_label_and_may_be_a_number(rows_file: str) -> None:
    documents = _load(rows_file, fields={"text": "reply"}, partition={"by": "dirichlet", "key": "year"})
    assert [(document.key, document.label, document.text) for document in documents] == [
        ("rows", "1999", "so"),
        ("rows", "2001", "me"),
        ("rows", "2001", "what"),
    ]


def test_iid_needs_no_key(rows_file: str) -> None:
    assert len(_load(rows_file, fields=ASK, partition={"by": "iid"})) == 2


def test_in_a_folder_the_natural_owner_is_the_file(tmp_path: Path) -> None:
    for name in ("ann", "bob"):
        (tmp_path / f"{name}.txt").write_text(f"{name} says\n")
    assert [(document.key, document.text) for document in _load(str(tmp_path))] == [
        ("ann", "ann says\n"),
        ("bob", "bob says\n"),
    ]


def test_the_first_line_can_own_a_paragraph(tmp_path: Path) -> None:
    (tmp_path / "play.txt").write_text("ROMEO:\nAh\n\nJULIET:\nOh\n")
    documents = _load(str(tmp_path / "play.txt"), partition={"by": "natural", "key": "first_line"})
    assert [document.key for document in documents] == ["ROMEO:", "JULIET:"]


def test_num_characters_counts_everything() -> None:
    assert Document("a", text="four").num_characters == 4
    assert Document("a", prompt="why", response="so").num_characters == 5


def test_embedded_documents_are_private_and_owned_by_their_package() -> None:
    documents = _load("embedded:stdlib")
    owners = {document.key for document in documents}
    assert "tarfile" in owners
    assert not owners & set(PUBLIC_MODULES)


@pytest.mark.parametrize("public", [None, "embedded:stdlib"])
def test_public_text_is_the_public_modules_by_default(public: str | None) -> None:
    documents = load_public(DataConfig(source="anything", public=public))
    assert tuple(document.text for document in documents) == public_texts()


def test_public_text_can_be_a_file_with_the_same_fields(rows_file: str) -> None:
    documents = load_public(DataConfig(source="anything", public=rows_file, fields=ASK))
    assert [document.prompt for document in documents] == ["why", "who"]


@pytest.mark.parametrize(
    ("fields", "template", "prompts"),
    [
        ({"text": "ask", "label": "topic"}, "Q: {text} A:", ["Q: why A:", "Q: who A:", "Q: hm A:"]),
        ({"text": "ask", "label": "topic"}, "auto", ["why", "who", "hm"]),
        ({"prompt": "ask", "response": "reply"}, "{prompt}?", ["why?", "who?", "hm?"]),
    ],
)
def test_public_text_can_be_questions_of_the_task_without_answers(rows_file, fields, template, prompts) -> None:
    public = {"path": rows_file, "fields": {"text": "ask"}}
    options = DataConfig(source="anything", public=public, fields=fields, template=template)
    documents = load_public(options, as_questions=True)
    assert [document.prompt for document in documents] == prompts
    assert {(document.response, document.choices, document.label) for document in documents} == {("", (), None)}
    assert options.named_places == ("anything", rows_file)


def test_questions_of_a_task_with_classes_need_no_class(tmp_path: Path) -> None:
    labelled, unlabelled = tmp_path / "labelled.jsonl", tmp_path / "unlabelled.jsonl"
    labelled.write_text('{"ask": "why", "topic": "of nobody\'s"}\n{"ask": "who", "topic": ""}\n')
    unlabelled.write_text('{"ask": "why"}\n{"ask": "who"}\n')
    task = {"text": "ask", "label": "topic", "labels": ["cause", "person"]}

    def questions(public: Any, **fields: Any) -> tuple[Document, ...]:
        options = DataConfig(source="anything", public=public, fields={**task, **fields}, template="Q: {text} A:")
        return load_public(options, as_questions=True)

    one, other = (
        Document("labelled", prompt="Q: why A:", response=""),
        Document("labelled", prompt="Q: who A:", response=""),
    )
    assert questions(str(labelled)) == (one, other)
    assert [document.prompt for document in questions([str(unlabelled)])] == [one.prompt, other.prompt]
    with pytest.raises(DataError, match=r"data\.fields\.text = question is no field of unlabelled"):
        questions(str(unlabelled), text="question")
    with pytest.raises(DataError, match=r"data\.fields\.label = topic is no field of unlabelled"):
        questions({"path": str(unlabelled), "fields": task})  # the source says that it has classes
    with pytest.raises(DataError, match=r"data\.fields\.label = topic is no field of unlabelled"):
        load_public(DataConfig(source="anything", public=str(unlabelled), fields=task))  # rows with answers


def test_questions_need_a_source_and_a_task_with_prompts(rows_file: str) -> None:
    with pytest.raises(DataError, match=r"align_positions = answer needs questions like the clients' own: name a sou"):
        load_public(DataConfig(source="anything"), as_questions=True)
    text = DataConfig(source="anything", public=rows_file, fields={"text": "ask"})
    with pytest.raises(DataError, match=r"answer needs the place before an answer, and rows of data\.public are text"):
        load_public(text, as_questions=True)


def test_empty_public_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match=r"data\.public = .*empty\.txt: the public text is empty"):
        load_public(DataConfig(source="anything", public=str(tmp_path / "empty.txt")))


def test_an_unknown_embedded_corpus_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"data\.source = embedded:news: no such embedded corpus\. There is embedded:std"
    ):
        _load("embedded:news")
    with pytest.raises(DataError, match=r"data\.public = embedded:news: no such embedded corpus"):
        load_public(DataConfig(source="anything", public="embedded:news"))


def test_embedded_text_takes_no_fields_and_no_key() -> None:
    with pytest.raises(DataError, match=r"data\.fields does not go with data\.source = embedded:stdlib"):
        _load("embedded:stdlib", fields=ASK)
    with pytest.raises(DataError, match=r"data\.partition\.key does not go with"):
        _load("embedded:stdlib", partition={"by": "natural", "key": "module"})


@pytest.mark.parametrize("content", ["", '{"ask": "", "reply": ""}\n'])
def test_an_empty_corpus_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(DataError, match=r"rows\.jsonl: the corpus is empty; no row has text"):
        _load(str(tmp_path / "rows.jsonl"), fields=ASK, partition={"by": "iid"})


def test_a_missing_field_names_the_nearest(rows_file: str) -> None:
    with pytest.raises(DataError, match=r"data\.fields\.response = replay is no field of rows\. Did you mean reply\?"):
        _load(rows_file, fields={"prompt": "ask", "response": "replay"}, partition={"by": "iid"})
    with pytest.raises(DataError, match=r"data\.partition\.key = topics is no field of rows\. Did you mean topic\?"):
        _load(rows_file, fields=ASK, partition={"by": "natural", "key": "topics"})


def test_missing_fields_setting_lists_what_there_is(rows_file: str) -> None:
    with pytest.raises(
        DataError, match=r"data\.fields is missing, and rows has no field named text.*There is: ask, reply"
    ):
        _load(rows_file, partition={"by": "iid"})


@pytest.mark.parametrize(("by", "role"), [("natural", "owner"), ("dirichlet", "label")])
def test_one_file_without_a_key_is_refused(rows_file: str, by: str, role: str) -> None:
    with pytest.raises(
        DataError, match=rf"data\.partition\.by = {by} needs data\.partition\.key, .*{role}\. There is: ask"
    ):
        _load(rows_file, fields=ASK, partition={"by": by})


def test_a_field_of_lists_is_refused(rows_file: str) -> None:
    with pytest.raises(DataError, match=r"data\.fields\.text = tags of rows holds list values, not text"):
        _load(rows_file, fields={"text": "tags"}, partition={"by": "iid"})
