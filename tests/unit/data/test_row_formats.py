"""Rows of every format as documents, and what is said about rows that do not fit theirs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from heterotune.config.data_options import DataConfig
from heterotune.data.corpora import load_corpus, load_test
from heterotune.data.document import Document
from heterotune.errors import DataError

IID = {"by": "iid"}
ALPACA_START = "Below is an instruction that describes a task"
INTENTS = {"banking": ["pay", "freeze"], "travel": ["book"]}

pytestmark = pytest.mark.usefixtures("datasets_cache")


def _write(tmp_path: Path, rows: Sequence[dict[str, Any]], name: str = "rows") -> str:
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _load(source: Any, **settings: Any) -> tuple[Document, ...]:
    return load_corpus(DataConfig.model_validate({"source": source, "partition": IID} | settings))


def test_instructions_take_the_alpaca_template_with_and_without_input(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Add {x}.", "context": "1 2", "response": "3"},
        {"instruction": "Hi", "context": " ", "response": "Yo"},
    ]
    fields = {"instruction": "instruction", "input": "context", "output": "response"}
    with_input, without = _load(_write(tmp_path, rows), fields=fields)
    assert with_input.prompt == (
        f"{ALPACA_START}, paired with an input that provides further context. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nAdd {x}.\n\n### Input:\n1 2\n\n### Response:"
    )
    assert without.prompt == (
        f"{ALPACA_START}. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nHi\n\n### Response:"
    )
    assert (with_input.response, with_input.separator) == ("3", "\n")
    plain = _load(_write(tmp_path, rows), fields=fields, template="plain", separator=" => ")
    assert [(each.prompt, each.separator) for each in plain] == [("Add {x}.\n\n1 2", " => "), ("Hi", " => ")]


def test_a_prompt_can_take_the_alpaca_template(tmp_path: Path) -> None:
    source = _write(tmp_path, [{"q": "Why?", "a": "So."}])
    (document,) = _load(source, fields={"prompt": "q", "response": "a"}, template="alpaca")
    assert document.prompt is not None and document.prompt.endswith("### Instruction:\nWhy?\n\n### Response:")


def test_a_template_names_parts_and_any_field(tmp_path: Path) -> None:
    source = _write(tmp_path, [{"q": "Why {a}?", "a": "So.", "hint": 7}])
    fields = {"prompt": "q", "response": "a"}
    (document,) = _load(source, fields=fields, template="Q: {prompt} ({hint}) {{x}}\nA:", separator=" ")
    assert (document.prompt, document.separator) == ("Q: Why {a}? (7) {x}\nA:", " ")
    with pytest.raises(DataError, match=r"data\.template\.hnt = hnt is no field of rows\. Did you mean hint\?"):
        _load(source, fields=fields, template="{prompt} {hnt}")


def test_chat_turns_are_kept_for_the_tokenizer(tmp_path: Path) -> None:
    turns = [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Yo"),
        ("user", "Bye"),
        ("assistant", "Ciao"),
        ("user", "?"),
    ]
    rows = [
        {"messages": [{"role": role, "content": content} for role, content in turns]},
        {"messages": [{"role": "user", "content": "alone"}]},
        {"messages": []},
    ]
    (document,) = _load(_write(tmp_path, rows), fields={"messages": "messages"})
    assert (document.turns, document.response) == (tuple(turns[:4]), "Ciao")
    source = _write(tmp_path, [{"q": "Why?", "a": "So.", "t": "x"}])
    (document,) = _load(source, fields={"prompt": "q", "response": "a"}, template="chat")
    assert (document.turns, document.response) == ((("user", "Why?"),), "So.")


def test_messages_that_are_none_are_refused(tmp_path: Path) -> None:
    for value in ("hello", [{"role": "user"}], [1]):
        with pytest.raises(
            DataError, match=r"data\.fields\.messages = chat of rows holds no list of \{role, content\}"
        ):
            _load(_write(tmp_path, [{"chat": value}], name="rows"), fields={"messages": "chat"})


CLASSES = {"text": "query", "label": "intent"}


def test_classes_are_the_labels_that_the_data_has(tmp_path: Path) -> None:
    rows = [{"query": "pay me", "intent": "pay"}, {"query": "fly me", "intent": "book"}, {"query": "", "intent": "pay"}]
    documents = _load(_write(tmp_path, rows), fields=CLASSES, template="{text}\nIntent:")
    assert [(each.prompt, each.response, each.label, each.choices) for each in documents] == [
        ("pay me\nIntent:", "pay", "pay", ("book", "pay")),
        ("fly me\nIntent:", "book", "book", ("book", "pay")),
    ]


def test_classes_can_be_listed_and_numbered(tmp_path: Path) -> None:
    rows = [{"query": "good", "intent": 1}, {"query": "bad", "intent": 0}]
    documents = _load(_write(tmp_path, rows), fields=CLASSES | {"labels": ["no", "yes", "maybe"]})
    assert [(each.response, each.choices) for each in documents] == [
        ("yes", ("no", "yes", "maybe")),
        ("no", ("no", "yes", "maybe")),
    ]
    with pytest.raises(
        DataError, match=r"fields\.label = intent of rows holds 'odd', which is none of the 2 labels \(no, yes\)"
    ):
        _load(_write(tmp_path, [{"query": "x", "intent": "odd"}]), fields=CLASSES | {"labels": ["no", "yes"]})


def test_one_class_is_no_classification(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"data\.fields\.label = intent holds 1 different labels; a classification needs"
    ):
        _load(_write(tmp_path, [{"query": "x", "intent": "a"}]), fields=CLASSES)


def test_classes_of_a_saved_data_set_have_their_names(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"query": datasets.Value("string"), "intent": datasets.ClassLabel(names=["no", "yes"])}
    )
    datasets.Dataset.from_dict({"query": ["a", "b"], "intent": [1, 0]}, features).save_to_disk(tmp_path / "saved")
    documents = _load(str(tmp_path / "saved"), fields=CLASSES)
    assert [(each.response, each.choices) for each in documents] == [("yes", ("no", "yes")), ("no", ("no", "yes"))]


def test_a_test_set_has_the_classes_of_the_clients(tmp_path: Path) -> None:
    train = _write(
        tmp_path, [{"query": "a", "intent": "x"}, {"query": "b", "intent": "y"}, {"query": "c", "intent": "z"}]
    )
    test = _write(tmp_path, [{"query": "d", "intent": "z"}, {"query": "e", "intent": "x"}], name="test")
    config = DataConfig.model_validate({"source": train, "test": test, "fields": CLASSES, "partition": IID})
    assert {each.choices for each in load_test(config)} == {("x", "y", "z")}
    _write(tmp_path, [{"query": "d", "intent": "new"}], name="test")
    with pytest.raises(DataError, match=r"of test holds 'new', which is none of the 3 labels \(x, y, z\)"):
        load_test(config)


@pytest.mark.parametrize("by", ["task", "natural", "dirichlet", "pathological"])
def test_a_test_set_needs_no_task_and_no_label_of_the_partition(tmp_path: Path, by: str) -> None:
    train = [{"path": _write(tmp_path, [{"text": "a"}], name=name), "task": name} for name in ("one", "two")]
    test = _write(tmp_path, [{"text": "b"}], name="one-more")
    (document,) = load_test(DataConfig.model_validate({"source": train, "test": test, "partition": {"by": by}}))
    assert (document.text, document.key) == ("b", "one-more")


def test_an_empty_test_set_is_refused(tmp_path: Path) -> None:
    source = _write(tmp_path, [{"text": "a"}])
    empty = _write(tmp_path, [{"text": ""}], name="test")
    with pytest.raises(DataError, match=r"data\.test = .*test\.jsonl: the test set is empty; no row has text"):
        load_test(DataConfig(source=source, test=empty, partition=IID))


ANSWERS = ["red", "blue", "grey"]


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        ({"answers": ANSWERS, "key": "blue"}, {"choices": "answers"}),
        ({"answers": ANSWERS, "key": "B"}, {"choices": "answers"}),
        ({"answers": ANSWERS, "key": 1}, {"choices": "answers"}),
        ({"answers": {"text": ANSWERS, "label": ["1", "2", "3"]}, "key": "2"}, {"choices": "answers"}),
        ({"a": "red", "b": "blue", "c": "grey", "key": 1}, {"choice_fields": ["a", "b", "c"]}),
    ],
)
def test_the_right_answer_is_told_in_many_ways(tmp_path: Path, row: dict[str, Any], fields: dict[str, Any]) -> None:
    fields = {"question": "q", "answer": "key", **fields}
    (document,) = _load(_write(tmp_path, [{"q": "Colour?", **row}]), fields=fields)
    assert (document.prompt, document.response, document.choices) == ("Colour?", "blue", ("red", "blue", "grey"))
    (document,) = _load(_write(tmp_path, [{"q": "Colour?", **row}]), fields=fields | {"letters": True})
    assert (document.prompt, document.response) == ("Colour?\nA. red\nB. blue\nC. grey", "B")
    assert document.choices == ("A", "B", "C")


def test_a_question_without_answer_is_left_out_and_a_wrong_one_refused(tmp_path: Path) -> None:
    fields = {"question": "q", "choices": "answers", "answer": "key"}
    rows = [{"q": "?", "answers": ANSWERS, "key": ""}, {"q": "?", "answers": ANSWERS, "key": "red"}]
    assert len(_load(_write(tmp_path, rows), fields=fields)) == 1
    with pytest.raises(
        DataError, match=r"fields\.answer = key of rows holds 'pink': neither one of the row's 3 answers"
    ):
        _load(_write(tmp_path, [{"q": "?", "answers": ANSWERS, "key": "pink"}]), fields=fields)
    with pytest.raises(DataError, match=r"fields\.choices = answers of rows holds no list of at most 26 answers"):
        _load(_write(tmp_path, [{"q": "?", "answers": "red", "key": "red"}]), fields=fields)


def test_groups_map_labels_to_owners_in_both_spellings(tmp_path: Path) -> None:
    rows = [{"query": name, "intent": name} for name in ("pay", "book", "freeze")]
    source = _write(tmp_path, rows)
    for content in (INTENTS, {"pay": "banking", "freeze": "banking", "book": "travel"}):
        (tmp_path / "groups.json").write_text(json.dumps(content))
        partition = {"by": "natural", "key": "intent", "groups": "groups.json"}
        documents = _load("rows.jsonl", root=str(tmp_path), fields=CLASSES, partition=partition)
        assert [(each.key, each.label) for each in documents] == [
            ("banking", "pay"),
            ("travel", "book"),
            ("banking", "freeze"),
        ]
        documents = _load(
            source,
            root="/elsewhere",
            fields=CLASSES,
            partition={**partition, "by": "dirichlet", "groups": str(tmp_path / "groups.json")},
        )
        assert [(each.stratum, each.label) for each in documents][:2] == [("banking", "pay"), ("travel", "book")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "no mapping"),
        ("{}", "no mapping"),
        ('{"a": ["x"], "b": 1}', "its values are neither all lists of texts nor all texts"),
        ('{"a": ["pay"], "b": ["pay"]}', "'pay' is in 'a' and 'b'"),
        ('{"a": ["book"]}', "has no group for 'pay' of rows"),
    ],
)
def test_groups_that_do_not_fit_are_refused(tmp_path: Path, content: str, message: str) -> None:
    source = _write(tmp_path, [{"query": "a", "intent": "pay"}, {"query": "b", "intent": "book"}])
    (tmp_path / "groups.json").write_text(content)
    partition = {"by": "natural", "key": "intent", "groups": str(tmp_path / "groups.json")}
    with pytest.raises(DataError, match=rf"data\.partition\.groups = .*groups\.json:? {message}"):
        _load(source, fields=CLASSES, partition=partition)


def test_sources_of_a_list_have_tasks_fields_and_owners(tmp_path: Path) -> None:
    first = _write(tmp_path, [{"q": "1+1", "a": "2"}], name="sums")
    second = _write(tmp_path, [{"t": "good", "l": "yes"}, {"t": "bad", "l": "no"}], name="moods")
    source = [
        {"path": first, "task": "adding", "fields": {"prompt": "q", "response": "a"}},
        {"path": second, "task": "feeling", "fields": {"text": "t", "label": "l"}},
    ]
    for by in ("task", "natural"):
        documents = _load(source, partition={"by": by})
        assert [(each.task, each.key, each.choices) for each in documents] == [
            ("adding", "adding", ()),
            ("feeling", "feeling", ("no", "yes")),
            ("feeling", "feeling", ("no", "yes")),
        ]
    with pytest.raises(DataError, match=r"partition\.by = task needs data\.partition\.key, .* holds a row's task"):
        _load([first, second], partition={"by": "task"}, fields={"prompt": "q", "response": "a"})
    (document,) = _load(first, partition={"by": "task", "key": "a"}, fields={"prompt": "q", "response": "a"})
    assert document.task == "2"


def test_a_missing_file_of_a_list_is_numbered(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.source\.1 = \./gone: no such file or folder"):
        _load([_write(tmp_path, [{"text": "a"}]), "./gone"])


def test_embedded_text_stands_alone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.source: embedded:stdlib is a corpus of its own\. Give it alone"):
        _load(["embedded:stdlib", _write(tmp_path, [{"text": "a"}])])
    with pytest.raises(DataError, match=r"data\.partition\.by does not go with data\.source = embedded:stdlib"):
        _load("embedded:stdlib", partition={"by": "task"})
