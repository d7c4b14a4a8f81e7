"""One row of a table as what is asked and what is answered, before any template: one function per row format."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from heterotune.config.row_fields import ChoiceFields, ClassFields, InstructionFields, MessageFields, PromptFields
from heterotune.data.row_values import Row
from heterotune.errors import DataError

_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Example:
    """A row without its template.

    Attributes:
        question: What is asked, as plain text.
        response: What is answered.
        parts: What a template of the user's can name besides the row's fields.
        input: What an instruction is about; "" = nothing.
        choices: Answers among which the response is one; empty = free.
        label: The class; None = there is none.
        turns: Earlier turns of a conversation and the question itself; empty = the question is the only one.
    """

    question: str
    response: str
    parts: Mapping[str, str] = field(default_factory=dict)
    input: str = ""
    choices: tuple[str, ...] = ()
    label: str | None = None
    turns: tuple[tuple[str, str], ...] = ()


def _prompt(fields: PromptFields, row: Row, labels: Sequence[str]) -> Example:
    prompt = row.text("fields.prompt", fields.prompt)
    return Example(prompt, row.text("fields.response", fields.response), {"prompt": prompt})


def _instruction(fields: InstructionFields, row: Row, labels: Sequence[str]) -> Example:
    instruction = row.text("fields.instruction", fields.instruction)
    given = "" if fields.input is None else row.text("fields.input", fields.input)
    response = row.text("fields.output", fields.output)
    return Example(instruction, response, {"instruction": instruction, "input": given}, input=given.strip() and given)


def _class(fields: ClassFields, row: Row, labels: Sequence[str]) -> Example:
    text, value = row.text("fields.text", fields.text), row.text("fields.label", fields.label)
    if value and value not in labels:
        number = int(value) if value.isascii() and value.isdecimal() and len(value) < 5 else len(labels)
        if number >= len(labels):
            told = ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
            raise DataError(
                f"data.fields.label = {fields.label} of {row.table.file} holds {value[:_SHOWN]!r}, which is none of "
                f"the {len(labels)} labels ({told}). Add it to data.fields.labels."
            )
        value = labels[number]
    return Example(text, value, {"text": text}, choices=tuple(labels), label=value)


def _choice(fields: ChoiceFields, row: Row, labels: Sequence[str]) -> Example:
    question = row.text("fields.question", fields.question)
    answers, names = _answers(fields, row)
    value = row.text("fields.answer", fields.answer)
    if not value or not answers:
        return Example(question, "")
    right = _right_answer(value, answers, names, fields, row)
    lettered = "\n".join(f"{letter}. {answer}" for letter, answer in zip(string.ascii_uppercase, answers, strict=False))
    parts = {"question": question, "choices": lettered}
    if fields.letters:
        letters = tuple(string.ascii_uppercase[: len(answers)])
        return Example(f"{question}\n{lettered}", letters[right], parts, choices=letters)
    return Example(question, answers[right], parts, choices=answers)


def _answers(fields: ChoiceFields, row: Row) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return a row's answers and, where the data set has them, their labels."""
    if fields.choice_fields is not None:
        return tuple(row.text("fields.choice_fields", name) for name in fields.choice_fields), ()
    given: Any = row.values[fields.choices or ""]
    given, names = (given.get("text"), given.get("label")) if isinstance(given, dict) else (given, None)
    if given is None:
        return (), ()
    is_list = isinstance(given, list) and all(isinstance(answer, (str, int, float)) for answer in given)
    if not is_list or len(given) > len(string.ascii_uppercase):
        raise DataError(
            f"data.fields.choices = {fields.choices} of {row.table.file} holds no list of at most 26 answers, nor "
            "{text: [...], label: [...]}. Name the field that does, or name single fields with choice_fields."
        )
    return tuple(map(str, given)), tuple(map(str, names)) if isinstance(names, list) else ()


def _right_answer(value: str, answers: Sequence[str], names: Sequence[str], fields: ChoiceFields, row: Row) -> int:
    """Return the place of the right answer, which a data set tells by label, text, letter or number."""
    for known in (names, answers, string.ascii_uppercase[: len(answers)]):
        if value in known:
            return list(known).index(value)
    if value.isascii() and value.isdecimal() and len(value) < 5 and int(value) < len(answers):
        return int(value)
    raise DataError(
        f"data.fields.answer = {fields.answer} of {row.table.file} holds {value[:_SHOWN]!r}: neither one of the row's "
        f"{len(answers)} answers, nor a letter or number of one."
    )


def _messages(fields: MessageFields, row: Row, labels: Sequence[str]) -> Example:
    turns = row.values[fields.messages] or []
    if not isinstance(turns, list) or not all(_is_turn(turn) for turn in turns):
        raise DataError(
            f"data.fields.messages = {fields.messages} of {row.table.file} holds no list of {{role, content}} with "
            "text in both. Name the field that does."
        )
    pairs = [(turn["role"], turn["content"]) for turn in turns]
    while pairs and pairs[-1][0] != "assistant":
        pairs.pop()
    if len(pairs) < 2:
        return Example("", "")
    return Example(pairs[-2][1], pairs[-1][1], turns=tuple(pairs[:-1]))


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)


READERS: Mapping[type, Callable[[Any, Row, Sequence[str]], Example]] = {
    PromptFields: _prompt,
    InstructionFields: _instruction,
    ClassFields: _class,
    ChoiceFields: _choice,
    MessageFields: _messages,
}


def field_names(fields: Any) -> dict[str, str]:
    """Return setting -> field of the table, for every field that a row format reads."""
    given = {f"fields.{key}": value for key, value in fields if key not in ("labels", "letters", "choice_fields")}
    singles = getattr(fields, "choice_fields", None) or ()
    return {key: value for key, value in given.items() if value is not None} | {
        f"fields.choice_fields.{i}": name for i, name in enumerate(singles)
    }
