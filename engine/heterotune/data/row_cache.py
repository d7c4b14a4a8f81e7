"""Rows of a corpus larger than memory: made once on a node, mapped by all its ranks and by later runs.

A folder holds the rows of one key: everything that rows depend on. Whoever needs it first makes it under a lock, and
the others wait; it appears under its name only when it is complete.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from heterotune.config.data_options import DataConfig
from heterotune.config.record_options import EvaluateConfig
from heterotune.data.clients_data import FederatedData, build_federated_data
from heterotune.data.corpora import is_embedded, open_tables
from heterotune.data.document import Document
from heterotune.data.file_source import in_root
from heterotune.data.holdings import Holding
from heterotune.data.label_groups import read_groups
from heterotune.data.overview import digest_of
from heterotune.data.row_store import TYPES, MappedRows, open_rows
from heterotune.data.rows import Rows
from heterotune.data.text_tokenizer import TextTokenizer
from heterotune.errors import DataError
from heterotune.plain_files import in_home

CACHE_VARIABLE = "HETEROTUNE_CACHE"
_FORMAT = 1  # of the folder; raise it when rows come out differently
_MANIFEST = "manifest.json"
_HELDOUT = "heldout.npz"


def federated_data(
    data: DataConfig,
    evaluate: EvaluateConfig,
    tokenizer: TextTokenizer,
    type_of_client: Sequence[str],
    *,
    run_seed: int,
) -> FederatedData:
    """Load, divide and tokenise the corpus: in memory, or, under `data.streaming`, in a folder of mapped files.

    Args:
        data: Section `data`.
        evaluate: Section `evaluate`.
        tokenizer: The fleet's tokenizer.
        type_of_client: Name of each client's model type.
        run_seed: The run's seed.

    Raises:
        DataError: As `build_federated_data`, or if the cache folder cannot be written to.
    """
    arguments = (data, evaluate, tokenizer, len(type_of_client))
    options: dict[str, Any] = {"run_seed": run_seed, "type_of_client": type_of_client}
    if not data.streaming:
        return build_federated_data(*arguments, **options)
    if is_embedded(data):
        raise DataError("data.streaming does not go with embedded text, which is in memory. Remove it.")
    folder = cache_folder(data) / _key(data, evaluate, tokenizer, type_of_client, run_seed)
    try:
        with _locked(folder):
            if not _is_complete(folder, data.max_tokens):
                _make(folder, lambda store: build_federated_data(*arguments, **options, store=store), data.max_tokens)
        return _read(folder, data.max_tokens)
    except OSError as error:
        raise DataError(
            f"data.cache = {folder.parent}: {error.strerror or error}. Free space there or make it writable, or name "
            "another folder."
        ) from error


def cache_folder(data: DataConfig) -> Path:
    """Return the folder of all mapped rows."""
    named = data.cache or os.environ.get(CACHE_VARIABLE)
    return (in_home(named) if named else Path.home() / ".cache" / "heterotune") / "rows"


def _key(
    data: DataConfig, evaluate: EvaluateConfig, tokenizer: TextTokenizer, type_of_client: Sequence[str], run_seed: int
) -> str:
    """Name everything that the rows depend on, the files' own marks included."""
    sources = [data] if data.test is None else [data, data.model_copy(update={"source": data.test})]
    marks = [reader.table.fingerprint for source in sources for reader in open_tables(source)]
    partition = data.partition
    groups = (
        {} if partition.groups is None else read_groups(in_root(partition.groups, data.root), name=partition.groups)
    )
    chat = None if tokenizer.chat is None else dataclasses.asdict(tokenizer.chat)
    section = data.model_dump(mode="json", exclude={"cache", "public"})
    content = [_FORMAT, section, evaluate.max_rows, marks, groups, list(type_of_client), run_seed]
    text = json.dumps([*content, tokenizer.digest, tokenizer.bos_id, tokenizer.eos_id, chat], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Be the only process that makes or looks at a folder; the system lets go when a process ends."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_complete(folder: Path, max_tokens: int) -> bool:
    """Return whether the files are as long as the manifest says; somebody may have cleaned up."""
    try:
        num_rows = sum(json.loads((folder / _MANIFEST).read_text())["train_rows"])
        return (folder / _HELDOUT).is_file() and all(
            (folder / name).stat().st_size == num_rows * _row_bytes(name, max_tokens) for name in TYPES
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


def _row_bytes(name: str, max_tokens: int) -> int:
    return np.dtype(TYPES[name]).itemsize * (max_tokens if name in ("input_ids", "targets") else 1)


def _make(folder: Path, build: Any, max_tokens: int) -> None:
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    for left in (unfinished, folder):
        shutil.rmtree(left, ignore_errors=True)
    unfinished.mkdir()
    store = MappedRows(unfinished, max_tokens)
    made: FederatedData = build(store)
    store.finish()
    heldout = {field.name: getattr(made.heldout, field.name) for field in dataclasses.fields(Rows)}
    np.savez(unfinished / _HELDOUT, clients=made.heldout_clients, **heldout)
    manifest = {
        "digest": digest_of(made),
        "train_rows": [len(rows) for rows in made.train],
        "keys": made.keys,
        "dropped": made.dropped,
        "label_names": made.label_names,
        "heldout_documents": [dataclasses.asdict(document) for document in made.heldout_documents],
        "holdings": [dataclasses.asdict(each) for each in made.holdings],
    }
    (unfinished / _MANIFEST).write_text(json.dumps(manifest))
    unfinished.rename(folder)


def _read(folder: Path, max_tokens: int) -> FederatedData:
    manifest = json.loads((folder / _MANIFEST).read_text())
    with np.load(folder / _HELDOUT, allow_pickle=False) as arrays:
        heldout = Rows(**{field.name: arrays[field.name] for field in dataclasses.fields(Rows)})
        clients = arrays["clients"]
    return FederatedData(
        train=open_rows(folder, manifest["train_rows"], max_tokens),
        heldout=heldout,
        heldout_clients=clients,
        keys=tuple(map(tuple, manifest["keys"])),
        dropped=tuple(manifest["dropped"]),
        heldout_documents=tuple(_document(content) for content in manifest["heldout_documents"]),
        label_names=tuple(manifest["label_names"]),
        known_digest=manifest["digest"],
        holdings=tuple(
            Holding(**{**content, "length_quartiles": tuple(content["length_quartiles"])})
            for content in manifest["holdings"]
        ),
    )


def _document(content: dict[str, Any]) -> Document:
    turns = tuple((role, text) for role, text in content["turns"])
    return Document(**{**content, "choices": tuple(content["choices"]), "turns": turns})
