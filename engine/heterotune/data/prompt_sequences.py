"""A prompt and its response as tokens of one row: what begins and ends it, and what is cut if it is too long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heterotune.data.document import Document
from heterotune.data.text_tokenizer import TextTokenizer
from heterotune.errors import DataError


@dataclass(frozen=True)
class PromptSequence:
    """At most max_tokens + 1 tokens, the place where the response begins, and whether any were left out."""

    tokens: list[int]
    answer_start: int
    is_cut: bool


def prompt_sequences(documents: Sequence[Document], tokenizer: TextTokenizer, max_tokens: int) -> list[PromptSequence]:
    """Tokenise prompts with responses, one sequence each; see `make_rows` for what is cut.

    A plain prompt begins with the tokenizer's BOS (EOS, if it has none) and its response ends with EOS; a chat template
    writes both itself, and EOS is added where it does not end the response with a special token of its own.

    Raises:
        DataError: If a conversation has no chat template, or a choice is longer than a row.
    """
    written = [_written(document, tokenizer) for document in documents]
    prompts = tokenizer.encode_batch([prompt for prompt, _ in written])
    answers = tokenizer.encode_batch([answer for _, answer in written])
    special_ids = tokenizer.special_ids()
    longest = _longest_choices(documents, tokenizer)
    start_id = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    sequences = []
    for document, prompt, answer, longest_choice in zip(documents, prompts, answers, longest, strict=True):
        start = [] if document.turns and prompt[:1] != [start_id] else [start_id]
        prompt = prompt[1:] if document.turns and start else prompt
        if not (document.turns and special_ids.intersection(answer[-2:])):  # a line may end after the token
            answer = [*answer, tokenizer.eos_id]
        if longest_choice:
            sequences.append(_with_choice(start, prompt, answer, longest_choice + 1, max_tokens, document))
        else:
            sequences.append(_cut(start, prompt, answer, max_tokens))
    return sequences


def _written(document: Document, tokenizer: TextTokenizer) -> tuple[str, str]:
    if not document.turns:
        return f"{document.prompt}{document.separator}", document.response or ""
    if tokenizer.chat is None:
        raise DataError(
            "data.template = chat, but the tokenizer has no chat template. Give data.tokenizer one that has, or write "
            "data.template out."
        )
    return tokenizer.chat.prompt_and_answer(document.turns, document.response or "")


def _longest_choices(documents: Sequence[Document], tokenizer: TextTokenizer) -> list[int]:
    """Return the tokens of each document's longest choice; 0 = it has none."""
    known: dict[tuple[str, ...], int] = {(): 0}
    for choices in {document.choices for document in documents} - known.keys():
        known[choices] = max(len(ids) for ids in tokenizer.encode_batch(choices))
    return [known[document.choices] for document in documents]


def _cut(start: list[int], prompt: list[int], answer: list[int], max_tokens: int) -> PromptSequence:
    num_prompt = max(max_tokens - len(answer), min(len(prompt), max_tokens // 2))
    question = [*start, *prompt[max(0, len(prompt) - num_prompt) :]]
    tokens = (question + answer)[: max_tokens + 1]
    return PromptSequence(tokens, len(question), len(tokens) < len(start) + len(prompt) + len(answer))


def _with_choice(
    start: list[int], prompt: list[int], answer: list[int], longest_answer: int, max_tokens: int, document: Document
) -> PromptSequence:
    num_prompt = max_tokens - max(longest_answer, len(answer))
    if num_prompt < 1:
        raise DataError(
            f"data.max_tokens = {max_tokens} leaves no room for a prompt beside the longest choice of "
            f"{(document.prompt or '')[:60]!r}, {longest_answer - 1} tokens. Raise it."
        )
    question = [*start, *prompt[max(0, len(prompt) - num_prompt) :]]
    return PromptSequence(question + answer, len(question), len(prompt) > num_prompt)
