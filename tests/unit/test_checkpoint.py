"""Checkpoints: whole or not there, verified when read, the newest good one found."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from heterotune import checkpoint as module
from heterotune.checkpoint import (
    Checkpoint,
    begin_checkpoint,
    best_checkpoint,
    newest_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from heterotune.errors import CheckpointError
from heterotune.file_digests import KnownFiles


def make(folder: Path, round_number: int, keep: int = 2, **facts: object) -> Path:
    clients = folder / "clients"
    clients.mkdir(exist_ok=True)
    client = clients / "client-000003.safetensors"
    client.unlink(missing_ok=True)
    client.write_bytes(bytes([round_number]) * 10)
    tensors = {"values/a/V": torch.full((2, 3), float(round_number)), "known_clients": torch.tensor([3, 5])}
    facts = {"strategy": "s", "loss": [0.1 + 0.2, 1e-300], **facts}
    return save_checkpoint(folder, Checkpoint(round_number, tensors, facts, clients), keep=keep)


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    path = make(tmp_path, 10)
    assert path == tmp_path / "checkpoints" / "round-000010"
    read = read_checkpoint(path)
    assert read.round_number == 10 and read.facts == {"strategy": "s", "loss": [0.1 + 0.2, 1e-300]}
    assert torch.equal(read.tensors["values/a/V"], torch.full((2, 3), 10.0))
    assert [file.read_bytes() for file in read.clients.iterdir()] == [bytes([10]) * 10]


def test_client_files_that_are_replaced_later_stay_as_they_were(tmp_path: Path) -> None:
    path = make(tmp_path, 1)
    replacement = tmp_path / "new"
    replacement.write_bytes(b"later")
    replacement.replace(tmp_path / "clients" / "client-000003.safetensors")
    assert (read_checkpoint(path).clients / "client-000003.safetensors").read_bytes() == bytes([1]) * 10


def test_a_file_system_without_links_gets_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(module.os, "link", refuse)
    assert [file.read_bytes() for file in read_checkpoint(make(tmp_path, 4)).clients.iterdir()] == [bytes([4]) * 10]


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for round_number in (1, 2, 3, 11):
        make(tmp_path, round_number)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["round-000003", "round-000011"]
    assert newest_checkpoint(tmp_path).round_number == 11


def test_the_best_is_kept_beside_the_newest_which_is_gone_on_from(tmp_path: Path) -> None:
    best = None
    for round_number, losses in enumerate([[3.0, 2.0], [1.0, 2.0], [2.0, 2.0], [], [1.5, 1.5], [2.0, math.nan]]):
        best = best_checkpoint(tmp_path, best, round_number, losses)
        make(tmp_path, round_number, keep=1, best=best)
    assert best == {"round": 1, "heldout_loss": 1.5}, "the first of two that are equal"
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["round-000001", "round-000005"]
    newest = newest_checkpoint(tmp_path)
    assert newest.round_number == 5 and newest.facts["best"] == best


def test_a_best_checkpoint_that_is_gone_is_the_best_no_longer(tmp_path: Path) -> None:
    best = {"round": 1, "heldout_loss": 1.0}
    assert best_checkpoint(tmp_path, best, 2, [1.5]) == {"round": 2, "heldout_loss": 1.5}
    make(tmp_path, 1)
    assert best_checkpoint(tmp_path, best, 2, [1.5]) == best


def test_what_is_written_later_is_what_was_there_when_it_began(tmp_path: Path) -> None:
    known = KnownFiles()
    make(tmp_path, 1)
    facts = {"loss": [1.0]}
    write = begin_checkpoint(tmp_path, Checkpoint(2, {"a": torch.ones(1)}, facts, tmp_path / "clients"))
    facts["loss"].append(2.0)
    replace(tmp_path / "clients" / "client-000003.safetensors", b"later")
    assert newest_checkpoint(tmp_path).round_number == 1, "not whole yet"
    read = read_checkpoint(write(2, known))
    assert (read.round_number, read.facts) == (2, {"loss": [1.0]})
    assert [file.read_bytes() for file in read.clients.iterdir()] == [bytes([1]) * 10]


def test_nothing_saved_is_nothing_found(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None


def truncate(path: Path) -> None:
    replace(path, path.read_bytes()[:-4])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    replace(path, bytes(content))


def replace(path: Path, content: bytes) -> None:
    """Give a name new content; an older checkpoint's name for the same file keeps the old one."""
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (truncate, "state.safetensors"),
        (flip, "state.safetensors"),
        (Path.unlink, "state.safetensors"),
        (truncate, "clients/client-000003.safetensors"),
        (flip, "clients/client-000003.safetensors"),
        (Path.unlink, "clients/client-000003.safetensors"),
        (truncate, "manifest.json"),
        (Path.unlink, "manifest.json"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: Callable[[Path], None], name: str) -> None:
    make(tmp_path, 1)
    damage(make(tmp_path, 2) / name)
    assert newest_checkpoint(tmp_path).round_number == 1


def test_if_none_is_whole_nothing_begins_again_unasked(tmp_path: Path) -> None:
    truncate(make(tmp_path, 1) / "state.safetensors")
    told = r"state.safetensors is missing or not what was written.\n.*No checkpoint is left .* Remove .*checkpoints"
    with pytest.raises(CheckpointError, match=f"(?s){told}"):
        newest_checkpoint(tmp_path)


def test_an_unreadable_manifest_is_named(tmp_path: Path) -> None:
    path = make(tmp_path, 1)
    (path / "manifest.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="manifest.json cannot be read"):
        read_checkpoint(path)


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path, 1)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "version": 99}))
    with pytest.raises(CheckpointError, match="version 99 of the format; this program reads 1"):
        read_checkpoint(path)


def test_an_interrupted_save_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, 1)

    def fail(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module.os, "replace", fail)
        told = r"the checkpoint of round 2 cannot be written \(.*No space left.*\). Free space .* go on with --resume"
        with pytest.raises(CheckpointError, match=told):
            make(tmp_path, 2)
    assert newest_checkpoint(tmp_path).round_number == 1
    make(tmp_path, 2)
    assert newest_checkpoint(tmp_path).round_number == 2
