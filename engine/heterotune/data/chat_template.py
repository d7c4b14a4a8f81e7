"""The chat template that came with a tokenizer: Jinja, rendered in a sandbox as `transformers` renders it.

Not through `transformers` itself, whose import brings torch and seconds with it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heterotune.errors import DataError
from heterotune.plain_files import MAX_JSON_BYTES, read_small_text

_FILE = "chat_template.jinja"


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's chat template.

    Attributes:
        source: Jinja text.
        special_tokens: ("bos_token", "<s>") and the like, which a template may name.
        origin: The folder it is from; for messages.
    """

    source: str
    special_tokens: tuple[tuple[str, str], ...]
    origin: str

    def prompt_and_answer(self, turns: Sequence[tuple[str, str]], response: str) -> tuple[str, str]:
        """Write a conversation up to its answer, and the answer with what ends it.

        Args:
            turns: (role, content) up to the last question.
            response: The answer.

        Raises:
            DataError: If the template is broken, or writes a conversation differently once it has an answer.
        """
        prompt = self._written(turns, add_generation_prompt=True)
        whole = self._written([*turns, ("assistant", response)], add_generation_prompt=False)
        if not whole.startswith(prompt):
            raise DataError(
                f"{self.origin}: the chat template writes the question differently once the answer is there, so where "
                "the answer begins is not known. Give data.template a text of your own."
            )
        return prompt, whole[len(prompt) :]

    def _written(self, turns: Sequence[tuple[str, str]], *, add_generation_prompt: bool) -> str:
        from jinja2 import TemplateError

        messages = [{"role": role, "content": content} for role, content in turns]
        try:
            return _compiled(self.source).render(
                messages=messages, add_generation_prompt=add_generation_prompt, **dict(self.special_tokens)
            )
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
            cause = f"{type(error).__name__}: {error}"[:300]
            raise DataError(
                f"{self.origin}: the chat template cannot write a conversation ({cause}). Give data.template another."
            ) from error


def read_chat_template(folder: Path, settings: Mapping[str, Any]) -> ChatTemplate | None:
    """Find the chat template beside a tokenizer; None if there is none.

    Args:
        folder: Where the tokenizer is.
        settings: tokenizer_config.json.

    Raises:
        DataError: If the template's own file cannot be read.
    """
    given = settings.get("chat_template")
    if isinstance(given, list):  # several, by name
        named = {each.get("name"): each.get("template") for each in given if isinstance(each, dict)}
        given = named.get("default")
    if (folder / _FILE).is_file():
        try:
            given = read_small_text(folder / _FILE, MAX_JSON_BYTES)
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{folder / _FILE}: cannot be read ({error}).") from error
    if not isinstance(given, str) or not given:
        return None
    tokens = {name: _token_text(value) for name, value in settings.items() if name.endswith("_token")}
    return ChatTemplate(given, tuple((name, text) for name, text in tokens.items() if text is not None), str(folder))


def _token_text(token: Any) -> str | None:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


@functools.lru_cache(maxsize=8)
def _compiled(source: str) -> Any:
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    # A date in a prompt would make rows depend on the day of the run, so there is no strftime_now.
    environment.globals["raise_exception"] = refuse
    return environment.from_string(source)
