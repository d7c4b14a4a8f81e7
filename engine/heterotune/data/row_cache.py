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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from heterotune.config.data_options import DataConfig
from heterotune.config.record_options import EvaluateConfig
from heterotune.data.client_rows import ClientRows
from heterotune.data.clients_data import FederatedData, build_federated_data
from heterotune.data.corpora import is_embedded, open_tables
from heterotune.data.document import Document
from heterotune.data.drawn_rows import DrawnRows, PoolFacts, drawn_sizes
from heterotune.data.facts import Codes
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
_HELDOUT, _POOL = "heldout.npz", "pool.npz"
_CODES = ("keys", "labels", "strata")


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
        return _read(folder, data, len(type_of_client), run_seed)
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
        manifest = json.loads((folder / _MANIFEST).read_text())
        num_rows = sum(manifest["train_rows"])
        others = (_HELDOUT,) if manifest.get("pool") is None else (_HELDOUT, _POOL)
        return all((folder / name).is_file() for name in others) and all(
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
    train, pool = made.train, None
    train_rows = train.num_rows.tolist() if not isinstance(train, DrawnRows) else [len(train.pool)]
    if isinstance(train, DrawnRows):
        pool = _keep_facts(unfinished, train.facts)
    manifest = {
        "digest": digest_of(made),
        "train_rows": train_rows,
        "pool": pool,
        "keys": made.keys,
        "dropped": made.dropped,
        "label_names": made.label_names,
        "heldout_documents": [dataclasses.asdict(document) for document in made.heldout_documents],
        "holdings": [dataclasses.asdict(each) for each in made.holdings],
    }
    (unfinished / _MANIFEST).write_text(json.dumps(manifest))
    unfinished.rename(folder)


def _keep_facts(folder: Path, facts: PoolFacts) -> dict[str, Sequence[str]]:
    """Write what is known of a pool's rows; returns the names that its codes stand for."""
    codes = {name: getattr(facts, name) for name in _CODES}
    arrays = {name: each.of for name, each in codes.items()}
    np.savez(folder / _POOL, documents=facts.documents, is_cut=facts.is_cut, **arrays)
    return {name: each.names for name, each in codes.items()}


def _read_facts(folder: Path, names: Mapping[str, Sequence[str]]) -> PoolFacts:
    with np.load(folder / _POOL, allow_pickle=False) as arrays:
        codes = [Codes(tuple(names[name]), arrays[name]) for name in _CODES]
        return PoolFacts(*codes, arrays["documents"], arrays["is_cut"])


def _read(folder: Path, data: DataConfig, num_clients: int, run_seed: int) -> FederatedData:
    manifest = json.loads((folder / _MANIFEST).read_text())
    with np.load(folder / _HELDOUT, allow_pickle=False) as arrays:
        heldout = Rows(**{field.name: arrays[field.name] for field in dataclasses.fields(Rows)})
        clients = arrays["clients"]
    train: ClientRows = open_rows(folder, manifest["train_rows"], data.max_tokens)
    if manifest.get("pool") is not None:
        num_rows = drawn_sizes(data.partition, num_clients, run_seed=run_seed)
        facts = _read_facts(folder, manifest["pool"])
        train = DrawnRows(train.rows, facts, num_rows, data.partition, run_seed)
    return FederatedData(
        train=train,
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
