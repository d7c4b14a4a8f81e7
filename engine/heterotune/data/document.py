"""What a corpus consists of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """One document: free text, or a prompt with its response.

    Attributes:
        key: Its natural owner.
        label: Its class; of documents without one, what a partition by label divides; None if the run asked for none.
        text: Free text, else None.
        prompt: What stands before the response, template included; of a conversation its last question. Else None.
        response: The response, else None.
        choices: Answers among which the response is one, for classification and multiple choice; else empty.
        separator: Text between prompt and response.
        turns: (role, content) of a conversation up to the response, to which the tokenizer's chat template is applied
            instead of `prompt` and `separator`; else empty.
        stratum: What a partition by label divides, where it is not the label; else None.
        task: Name of its task, "" = none.
    """

    key: str
    label: str | None = None
    text: str | None = None
    prompt: str | None = None
    response: str | None = None
    choices: tuple[str, ...] = ()
    separator: str = "\n"
    turns: tuple[tuple[str, str], ...] = ()
    stratum: str | None = None
    task: str = ""

    @property
    def num_characters(self) -> int:
        """Length of everything in it."""
        return len(self.text or "") + len(self.prompt or "") + len(self.response or "")
