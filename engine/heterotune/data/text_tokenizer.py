"""A tokenizer of the fleet: what its models were trained with, and nothing that adds to the text on the way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from heterotune.data.chat_template import ChatTemplate, read_chat_template
from heterotune.errors import DataError
from heterotune.fleet.model_source import EMBEDDED_PREFIX, RANDOM_PREFIX, embedded_root
from heterotune.plain_files import MAX_JSON_BYTES, in_home, is_folder, is_plain_file, read_small_text

_MAX_TOKENIZER_BYTES = 256 << 20  # the largest vocabularies in use take about 35 MB
_EOS_NAMES = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<|eot_id|>", "<eos>")


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer without special behaviour: no template, no padding, no truncation.

    Attributes:
        backend: The `tokenizers` object.
        vocab_size: Tokens, added ones included.
        eos_id: Ends every document.
        bos_id: Begins every document, or None where the model was trained without.
        digest: SHA-256 of vocabulary, merges and added tokens: equal digests mean the same output space.
        chat: How it writes conversations; None = it came without a chat template.
    """

    backend: Tokenizer
    vocab_size: int
    eos_id: int
    bos_id: int | None
    digest: str
    chat: ChatTemplate | None = None

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without special tokens."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of many texts; faster than one by one."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def special_ids(self) -> frozenset[int]:
        """Return the tokens that stand for no text, such as the end of a turn."""
        return frozenset(i for i, token in self.backend.get_added_tokens_decoder().items() if token.special)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids; special tokens are left out."""
        return self.backend.decode(list(ids), skip_special_tokens=True)


def load_tokenizer(reference: str | Path) -> TextTokenizer:
    """Load a tokenizer.

    Args:
        reference: `embedded:...` or `random:...` (the embedded tokenizer), a folder that holds a tokenizer, a
            tokenizer.json, or a hub id.

    Raises:
        DataError: If there is none, it is unreadable, or it has no end-of-sequence token.
    """
    path = _find(str(reference))
    folder = path if path.is_dir() else path.parent
    backend = _read_backend(path)
    settings = _read_settings(folder)
    backend.no_truncation()
    backend.no_padding()
    return TextTokenizer(
        backend=backend,
        vocab_size=backend.get_vocab_size(with_added_tokens=True),
        eos_id=_eos_id(backend, settings, folder),
        bos_id=_token_id(backend, settings.get("bos_token")),
        digest=_digest(backend),
        chat=read_chat_template(folder, settings),
    )


def _find(reference: str) -> Path:
    if reference.startswith((EMBEDDED_PREFIX, RANDOM_PREFIX)):
        return embedded_root()
    path = in_home(reference)
    if is_folder(path) or is_plain_file(path):
        return path
    if reference.startswith((".", "/", "~")) or reference.count("/") != 1 or path.suffix == ".json":
        raise DataError(f"{reference}: no such tokenizer. Give data.tokenizer a folder, a tokenizer.json or a hub id.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(reference, allow_patterns=["tokenizer*", "special_tokens_map.json"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise DataError(f"{reference}: no local tokenizer, and none that can be fetched here ({error}).") from error


def _read_backend(path: Path) -> Tokenizer:
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        if is_plain_file(file):
            return Tokenizer.from_str(read_small_text(file, _MAX_TOKENIZER_BYTES))
        # Older LLaMA folders hold a SentencePiece model only; transformers knows how to convert it.
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False).backend_tokenizer
    except Exception as error:  # tokenizers raises bare Exception
        raise DataError(f"{path}: the tokenizer cannot be read ({error}).") from error


def _read_settings(folder: Path) -> Mapping[str, Any]:
    """Return what the files beside a tokenizer say about its special tokens."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            settings |= _read_json_object(folder / name)
    return settings


def _read_json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_small_text(path, MAX_JSON_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}).") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds no JSON object, but {type(content).__name__}.")
    return content


def _token_id(backend: Tokenizer, token: Any) -> int | None:
    if isinstance(token, dict):
        token = token.get("content")
    return backend.token_to_id(token) if isinstance(token, str) else None


def _eos_id(backend: Tokenizer, settings: Mapping[str, Any], folder: Path) -> int:
    for token in (settings.get("eos_token"), *_EOS_NAMES):
        eos_id = _token_id(backend, token)
        if eos_id is not None:
            return eos_id
    raise DataError(f"{folder}: the tokenizer has no end-of-sequence token. Name eos_token in tokenizer_config.json.")


def _digest(backend: Tokenizer) -> str:
    """Hash what decides the meaning of a token id; presentation (templates, padding) is left out."""
    content = json.loads(backend.to_str())
    model = content["model"]
    merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in model.get("merges", [])]
    added = [[token["id"], token["content"]] for token in content.get("added_tokens", [])]
    canonical = json.dumps([model.get("vocab"), merges, added], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
