"""Which fields of a row are what: one small model per row format, told apart by its keys."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from heterotune.config.field_types import LARGEST_LIST, Flag, Section, Text


class TextFields(Section):
    """Rows of free text."""

    text: Text
    """Name of the field that holds the text."""

    @model_validator(mode="before")
    @classmethod
    def _check_one_kind(cls, given: Any) -> Any:
        """Rows are of one kind."""
        if isinstance(given, dict) and given.keys() & {"prompt", "response"}:
            raise ValueError("text excludes prompt and response. Give {text: name} or {prompt: name, response: name}.")
        return given


class PromptFields(Section):
    """Rows of a prompt and its response; the loss is taken on the response."""

    prompt: Text
    """Name of the field that holds the prompt."""
    response: Text
    """Name of the field that holds the response."""


class InstructionFields(Section):
    """Rows in the manner of Alpaca: an instruction, often an input that it is about, and the output."""

    instruction: Text
    """Name of the field that holds the instruction."""
    input: Text | None = None
    """Name of the field that holds the input, which may be empty in a row; null = there is none."""
    output: Text
    """Name of the field that holds the output."""


class MessageFields(Section):
    """Rows of a conversation; the loss is taken on its last answer."""

    messages: Text
    """Name of the field that holds a list of {role, content}."""


class ClassFields(Section):
    """Rows of a text and its class; the response is the class's name."""

    text: Text
    """Name of the field that holds the text."""
    label: Text
    """Name of the field that holds the class: its name, or its number in `labels`."""
    labels: Annotated[tuple[Text, ...], Field(min_length=2, max_length=LARGEST_LIST)] | None = None
    """All classes, at least 2; null = those that the data has, sorted."""


class ChoiceFields(Section):
    """Rows of a question, several answers and the right one; the response is its text or its letter."""

    question: Text
    """Name of the field that holds the question."""
    choices: Text | None = None
    """Name of the field that holds a list of answers, or {text: [...], label: [...]}; this or `choice_fields`."""
    choice_fields: Annotated[tuple[Text, ...], Field(min_length=2, max_length=26)] | None = None
    """Names of the fields that hold one answer each, 2 to 26; instead of `choices`."""
    answer: Text
    """Name of the field that holds the right answer: its text, its letter, its label, or its number from 0."""
    letters: Flag = False
    """Show the answers with letters in the prompt and take the letter as the response."""

    @model_validator(mode="after")
    def _check_one(self) -> ChoiceFields:
        """One way to name the answers."""
        if (self.choices is None) == (self.choice_fields is None):
            raise ValueError("needs either choices or choice_fields. Name the field or fields with the answers.")
        return self


KINDS = {
    "MessageFields": ("messages",),
    "InstructionFields": ("instruction",),
    "ChoiceFields": ("question", "choices", "choice_fields"),
    "ClassFields": ("label", "labels"),
    "TextFields": ("text",),
}
"""Keys that tell which kind of rows a `fields` mapping describes; a mapping with none of them has a prompt."""


def _fields_kind(given: Any) -> str:
    """Tell by its keys which kind of rows a `fields` mapping describes."""
    if isinstance(given, Section):
        return type(given).__name__
    keys = given if isinstance(given, dict) else {}
    return next((kind for kind, marks in KINDS.items() if any(mark in keys for mark in marks)), "PromptFields")


RowFields = Annotated[
    Annotated[TextFields, Tag("TextFields")]
    | Annotated[PromptFields, Tag("PromptFields")]
    | Annotated[InstructionFields, Tag("InstructionFields")]
    | Annotated[MessageFields, Tag("MessageFields")]
    | Annotated[ClassFields, Tag("ClassFields")]
    | Annotated[ChoiceFields, Tag("ChoiceFields")],
    Discriminator(_fields_kind),
]
