"""Checkpoints, client files, messages and ledgers that were damaged or forged: refused by name, or harmless."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import struct
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash
from safetensors.torch import save_file

from heterotune.adapters.layout import AdapterLayout
from heterotune.adapters.tables import adapter_layout
from heterotune.checkpoint import Checkpoint, newest_checkpoint, read_checkpoint, save_checkpoint
from heterotune.checkpoint_manifest import read_tensors
from heterotune.client_store import ClientStore
from heterotune.collective import wire
from heterotune.collective.codecs import CODECS
from heterotune.collective.ledger import Ledger
from heterotune.config.load import parse_run
from heterotune.errors import CheckpointError, RecordError, WireError
from heterotune.fleet.model_types import read_model_types
from heterotune.report.records import read_ledger
from heterotune.run_folder import RunFolder

LIMIT_BYTES = 64 << 20
MODEL = "random:hidden_size=16,intermediate_size=24,num_attention_heads=2,num_hidden_layers=1"


@pytest.fixture
def mutations(load_file):
    return load_file(Path(__file__).with_name("mutations.py"))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    clients = tmp_path / "clients"
    clients.mkdir()
    (clients / "client-000003.safetensors").write_bytes(b"personal")
    tensors = {"values/a/V": torch.ones(2, 3), "known_clients": torch.tensor([3, 5])}
    facts = {
        "strategy": "heterotune",
        "config": {"rounds": 3},
        "chunk_clients": [2, 1],
        "pass_seconds": [0.1, 0.2],
        "journal": {"positions": {"ledger.jsonl": 0}},
    }
    return save_checkpoint(tmp_path, Checkpoint(1, tensors, facts, clients), keep=2)


def rewrite(path: Path, content: bytes) -> None:
    """Give a file new content, and the manifest its new length and digest: the forger knows the format."""
    manifest = json.loads((path.parents[0] / "manifest.json").read_text())
    path.unlink()
    path.write_bytes(content)
    manifest["files"][path.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (path.parents[0] / "manifest.json").write_text(json.dumps(manifest))


def is_bounded(read: Callable[[], object], *named: type[Exception], name: str = "") -> bool:
    """Read in bounded time and memory; returns whether it was refused, by a named error that names the file."""
    began = time.monotonic()
    tracemalloc.start()
    try:
        read()
    except named as error:
        assert name in str(error), str(error)
        return True
    else:
        return False
    finally:
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak_bytes < LIMIT_BYTES and time.monotonic() - began < 10


def test_mutated_checkpoints(saved, tmp_path, mutations):
    whole = {path.relative_to(saved): path.read_bytes() for path in saved.rglob("*") if path.is_file()}
    num_refused, num_tried = 0, round(300 * mutations.SHARE) + 10
    for number in range(num_tried):
        draw = random.Random(number)
        shutil.rmtree(saved)
        for name, content in whole.items():
            (saved / name).parent.mkdir(parents=True, exist_ok=True)
            (saved / name).write_bytes(content)
        name = draw.choice(sorted(whole))
        if name.name == "manifest.json" and number % 2:
            tree = mutations.mutated_tree(json.loads(whole[name]), draw)
            (saved / name).write_text(json.dumps(tree))
        elif name.name == "state.safetensors" and number % 2:
            rewrite(saved / name, mutations.mutated_bytes(whole[name], draw))
        else:
            (saved / name).write_bytes(mutations.mutated_bytes(whole[name], draw))
        num_refused += is_bounded(lambda: read_checkpoint(saved), CheckpointError, name="round-000001")
    assert num_refused > 0.6 * num_tried  # what is left changed facts that the run file is compared with


def header(**tensors: object) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


FORGED = {
    "promises 2^60 elements": header(x={"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 1 << 62]}),
    "promises an overflow": header(x={"dtype": "F32", "shape": [1 << 32, 1 << 32], "data_offsets": [0, 0]}),
    "a header of 2^63 bytes": struct.pack("<Q", 1 << 63) + b"{}",
    "a header of 2^27 bytes": struct.pack("<Q", 1 << 27) + b"{}",
    "offsets that overlap": header(x={"dtype": "F32", "shape": [1], "data_offsets": [8, 4]}) + bytes(8),
    "nested deeply": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "a pickle": b"\x80\x04\x95cposix\nsystem\n",
    "empty": b"",
}


@pytest.mark.parametrize("forged", FORGED)
def test_forged_safetensors_are_refused_by_name(saved, forged):
    rewrite(saved / "state.safetensors", FORGED[forged])
    assert is_bounded(lambda: read_checkpoint(saved), CheckpointError, name="state.safetensors: cannot be read as")


def test_mutated_adapters_and_client_files(tmp_path, mutations):
    layout = a_layout()
    store = ClientStore(tmp_path / "clients", run_seed=1)
    store.save(3, layout, torch.zeros(max(columns.stop for columns in layout.columns.values())))
    store.flush()
    (path,) = (tmp_path / "clients").iterdir()
    whole = path.read_bytes()
    for number in range(round(300 * mutations.SHARE) + 10):
        path.write_bytes(mutations.mutated_bytes(whole, random.Random(number)))
        is_bounded(lambda: read_tensors(path), CheckpointError, name=path.name)
        is_bounded(lambda: ClientStore(path.parent, run_seed=1).load(3, layout), CheckpointError, name=path.name)
    for content in FORGED.values():
        path.write_bytes(content)
        fresh = ClientStore(path.parent, run_seed=1)
        assert is_bounded(lambda store=fresh: store.load(3, layout), CheckpointError, name=path.name)


def a_layout() -> AdapterLayout:
    fleet = [{"name": "a", "model": MODEL, "clients": 1}]
    options = {"adapter_rank": 2, "head_rank": 0, "personal_rank": 1}
    run = {"name": "x", "rounds": 1, "fleet": fleet, "data": {"source": "embedded:stdlib"}, "heterotune": options}
    config = parse_run(run)
    model_types = read_model_types(config.fleet)
    return adapter_layout("heterotune", config, model_types[0], model_types)


def test_a_client_file_of_another_run_is_refused(tmp_path):
    layout, ids = a_layout(), torch.tensor([3])
    path = tmp_path / f"personal-{layout.model_type}-000002-r0000p0000.safetensors"

    def load():
        return ClientStore(tmp_path, run_seed=1).load(3, layout)

    for tensors, message in [
        ({"something": torch.zeros(2)}, "holds no 'client_ids'; it is not of this run"),
        ({"client_ids": ids, "values": torch.zeros(1, 1)}, r"holds 1 elements of a client, not \d+; it is not of this"),
        (
            {"client_ids": ids, "values": torch.zeros(2, 1)},
            r"1 client ids int64 and values \(2, 1\) F32 are no clients'",
        ),
        ({"client_ids": ids.float(), "values": torch.zeros(1, 1)}, "1 client ids float32 .* are no clients' state"),
        (
            {"client_ids": ids.expand(2).contiguous(), "values": torch.zeros(2, 1)},
            "2 client ids int64 .* are no clients' state",
        ),
    ]:
        save_file(tensors, path)
        with pytest.raises(CheckpointError, match=f"{path.name}: {message}"):
            load()
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=f"{path.name}: not a regular file."):
        load()


@pytest.mark.parametrize("name", ["../../outside", "/etc/hostname", "clients/../../x", "..", "a\x00b", "\ud800"])
def test_names_in_a_manifest_are_never_opened(saved, tmp_path, name, monkeypatch):
    (tmp_path / "outside").write_bytes(b"secret")
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="(?s)round-000001: .* is missing or not what was written"):
        read_checkpoint(saved)


def link_client(saved: Path, tmp_path: Path) -> None:
    file = saved / "clients" / "client-000003.safetensors"
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")


def link_folder(saved: Path, tmp_path: Path) -> None:
    (saved / "clients").rename(tmp_path / "elsewhere")
    (saved / "clients").symlink_to(tmp_path / "elsewhere")


def pipe(saved: Path, tmp_path: Path) -> None:
    os.mkfifo(saved / "clients" / "client-000004.safetensors")


@pytest.mark.parametrize("trick", [link_client, link_folder, pipe])
def test_a_checkpoint_holds_regular_files_only(saved, tmp_path, trick):
    trick(saved, tmp_path)
    with pytest.raises(CheckpointError, match="is a link or no regular file; a checkpoint holds none"):
        read_checkpoint(saved)


def test_a_linked_checkpoint_and_an_unnamed_file_are_refused(saved, tmp_path):
    (saved / "clients" / "client-000009.safetensors").write_bytes(b"x")
    with pytest.raises(
        CheckpointError, match="client-000009.safetensors' is there, but manifest.json does not name it"
    ):
        read_checkpoint(saved)
    saved.rename(tmp_path / "moved")
    saved.symlink_to(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="round-000001: is a link. Put the folder itself there."):
        read_checkpoint(saved)


def test_a_manifest_of_another_round_or_with_other_facts_is_refused(saved):
    whole = json.loads((saved / "manifest.json").read_text())
    changes = [("round", 2, "is of round 2."), ("round", "1", "files, facts or round are not what they were")]
    changes += [("facts", {"chunk_clients": [0]}, "chunk_clients is not what was written")]
    changes += [("facts", {"pass_seconds": [-1]}, "pass_seconds is not what was written")]
    changes += [("facts", {"config": 3}, "config is not what was written")]
    for key, value, told in changes:
        (saved / "manifest.json").write_text(json.dumps({**whole, key: value}))
        with pytest.raises(CheckpointError, match=told):
            read_checkpoint(saved)
    (saved / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="manifest.json cannot be read"):
        read_checkpoint(saved)


def test_what_a_checkpoint_lacks_is_named_when_it_is_looked_for(saved):
    read = read_checkpoint(saved)
    with pytest.raises(CheckpointError, match="state.safetensors: holds no 'values/b'"):
        read.tensor("values/b", like=torch.zeros(1))
    with pytest.raises(CheckpointError, match="manifest.json: holds no 'nothing'"):
        read.facts["nothing"]
    with pytest.raises(CheckpointError, match=r"round-000001: values/a/V is \(2, 3\) torch.float32, not \(3, 2\)"):
        read.tensor("values/a/V", like=torch.zeros(3, 2))


def test_strange_neighbours_of_a_checkpoint_are_passed_over(saved, tmp_path):
    os.mkfifo(tmp_path / "checkpoints" / "round-000007")
    (tmp_path / "checkpoints" / "round-x").symlink_to("/")
    (saved / ".nfs0001").touch()
    assert newest_checkpoint(tmp_path).round_number == 1


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_mutated_messages(mutations, codec):
    values = np.random.default_rng(1).normal(size=500).astype(np.float32)
    whole = wire.encode(values, codec.name, np.random.default_rng(1), topk_share=0.3)
    for number in range(round(300 * mutations.SHARE) + 10):
        draw = random.Random(number)
        message = mutations.mutated_bytes(whole, draw)
        if number % 2 and len(message) > wire.HEADER_BYTES:  # with a checksum that is right
            signed, payload = message[: wire.HEADER_BYTES - 8], message[wire.HEADER_BYTES :]
            message = signed + struct.pack("<Q", xxhash.xxh3_64_intdigest(signed + payload)) + payload
        is_bounded(partial(wire.decode, message, 500), WireError)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("num_elements", [1 << 60, (1 << 64) - 1, 1 << 40])
@pytest.mark.parametrize("payload_bytes", [0, 100, (1 << 64) - 1])
def test_a_message_that_promises_too_much_takes_no_memory(codec, num_elements, payload_bytes):
    payload = bytes(100)
    signed = struct.pack("<4sHHQQ", wire.MAGIC, wire.VERSION, codec.number, num_elements, payload_bytes)
    message = signed + struct.pack("<Q", xxhash.xxh3_64_intdigest(signed + payload)) + payload
    assert is_bounded(lambda: wire.decode(message), WireError)


def test_mutated_ledgers(tmp_path, mutations):
    ledger = Ledger()
    for client_id in range(20):
        ledger.add(round_number=1, client_id=client_id, model_type="a", direction="up", group="g", num_bytes=7)
    whole = ledger.to_bytes()
    lines = "".join(json.dumps(record) + "\n" for record in ledger.records()).encode()
    for number in range(round(100 * mutations.SHARE) + 10):
        draw = random.Random(number)
        is_bounded(partial(Ledger.from_bytes, mutations.mutated_bytes(whole, draw)), WireError)
        (tmp_path / "ledger.jsonl").write_bytes(mutations.mutated_bytes(lines, draw))
        is_bounded(lambda: list(read_ledger(tmp_path / "ledger.jsonl", print)), RecordError, name="ledger.jsonl")


@pytest.mark.parametrize("position", [1 << 60, -1, "9", 5])
def test_a_file_is_never_made_longer_to_fit_a_checkpoint(tmp_path, position):
    (tmp_path / "ledger.jsonl").write_bytes(b"{}\n")
    told = "ledger.jsonl: it has 3 bytes and had .* when the checkpoint was written. Bring the file back"
    with pytest.raises(CheckpointError, match=told):
        RunFolder.open(tmp_path).cut_back({"ledger.jsonl": position})
    assert (tmp_path / "ledger.jsonl").read_bytes() == b"{}\n"
