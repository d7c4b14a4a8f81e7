"""What clients keep: the latest state counts, files are few and never change, and memory is bounded."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from heterotune import client_store as module
from heterotune.adapters.layout import AdapterLayout, TensorSpec
from heterotune.checkpoint import link_files
from heterotune.client_segments import latest_states, write_segment
from heterotune.client_store import MOST_SEGMENTS, ClientStore
from heterotune.errors import CheckpointError

OWN = TensorSpec("own", (2,), "client", "", "dema.client", "0")
SENT = TensorSpec("sent", (3,), "type", "a/sent", "dema.type", "0")
LAYOUT = AdapterLayout("a", (OWN, SENT))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "clients"


def state(value: float) -> torch.Tensor:
    return torch.full((5,), value)


def own(store: ClientStore, client_id: int) -> list[float]:
    return store.load(client_id, LAYOUT)["own"].tolist()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_client_keeps_is_its_latest_state(folder):
    store = ClientStore(folder, run_seed=0)
    assert not store.has_state(7) and own(store, 7) == [0.0, 0.0]
    assert store.load_residual(7, LAYOUT).tolist() == [0.0] * 3
    for round_number in (1, 2, 3):
        store.begin_round(round_number)
        store.save(7, LAYOUT, state(round_number))
        store.save_residual(7, LAYOUT, torch.tensor([1.0, -2.0, round_number]))
        assert own(store, 7) == [round_number] * 2, "before it is written"
        store.flush()
        assert own(store, 7) == [round_number] * 2
        assert store.load_residual(7, LAYOUT).tolist() == [1.0, -2.0, round_number]
    assert store.has_state(7) and not store.has_state(8) and own(ClientStore(folder, run_seed=0), 7) == [3.0, 3.0]


def test_ranks_see_what_others_wrote_after_they_look_again(folder):
    ranks = [ClientStore(folder, run_seed=0, mpi_rank=rank) for rank in range(3)]
    for round_number in range(1, 6):
        for rank, store in enumerate(ranks):
            store.begin_round(round_number)
            store.save((rank + round_number) % 3, LAYOUT, state(10 * round_number + rank))
            store.flush()
        for store in ranks:
            store.refresh()
            expected = [10 * round_number + (client - round_number) % 3 for client in range(3)]
            assert [own(store, client)[0] for client in range(3)] == expected
        ranks[0].tidy()
        assert len(files(folder)) <= 3, "the root saw what others wrote in this round before it tidied"


def test_a_round_of_many_clients_is_one_file(folder):
    store = ClientStore(folder, run_seed=0)
    store.begin_round(4)
    for client in range(100):
        store.save(client, LAYOUT, state(client))
    assert [path.name for path in store.flush()] == files(folder) == ["personal-a-000004-r0000p0000.safetensors"]


@pytest.mark.parametrize("num_clients", [3, 400])
def test_files_stay_few_and_states_what_they_were(folder, num_clients):
    store, expected = ClientStore(folder, run_seed=0), {}
    draw = np.random.default_rng(1)
    for round_number in range(1, 61):
        store.begin_round(round_number)
        for client in draw.choice(num_clients, size=3, replace=False).tolist():
            store.save(client, LAYOUT, state(1000 * round_number + client))
            expected["personal", "a", client] = [1000.0 * round_number + client] * 2
        store.tidy()
        assert len(files(folder)) <= MOST_SEGMENTS
        found = {client: values.tolist() for client, values in latest_states(folder).items()}
        assert found == expected
    kept = sum((folder / name).stat().st_size for name in files(folder))
    assert kept < 2 * len(expected) * 16 + MOST_SEGMENTS * 300, "superseded states do not pile up"
    assert all(own(ClientStore(folder, run_seed=0), key[2]) == value for key, value in expected.items())


def test_what_a_checkpoint_holds_does_not_change(folder, tmp_path):
    store, saved = ClientStore(folder, run_seed=0), tmp_path / "saved"
    saved.mkdir()
    store.begin_round(1)
    store.save(7, LAYOUT, state(1.0))
    store.flush()
    link_files(folder, saved)
    before = {name: (saved / name).read_bytes() for name in files(saved)}
    for round_number in range(2, 2 * MOST_SEGMENTS + 4):
        store.begin_round(round_number)
        store.save(7, LAYOUT, state(round_number))
        store.save(round_number + 8, LAYOUT, state(2.0))
        store.tidy()
    assert {name: (saved / name).read_bytes() for name in files(saved)} == before
    store.save(9, LAYOUT, state(3.0))  # of a round that is not finished
    store.replace_with(saved)
    assert own(store, 7) == [1.0, 1.0] and not store.has_state(9) and not store.has_state(11)
    store.replace_with(None)
    assert not store.has_state(7) and not folder.exists()


def test_files_of_an_earlier_job_in_the_same_round_are_not_written_over(folder):
    for client in (1, 2):
        store = ClientStore(folder, run_seed=0)
        store.begin_round(4)
        store.save(client, LAYOUT, state(client))
        store.flush()
    assert len(files(folder)) == 2 and own(store, 1) == [1.0, 1.0] and own(store, 2) == [2.0, 2.0]


def test_values_that_are_not_finite_do_not_replace_sound_ones(folder):
    store = ClientStore(folder, run_seed=0)
    store.save(7, LAYOUT, state(4.0))
    store.save(7, LAYOUT, torch.tensor([4.0, torch.nan, 0.0, 0.0, 0.0]))
    assert own(store, 7) == [4.0, 4.0]


def test_states_do_not_pile_up_in_memory(folder, monkeypatch):
    monkeypatch.setattr(module, "CACHE_BYTES", 10 * 8)
    store = ClientStore(folder, run_seed=0)
    store.begin_round(1)
    for client in range(55):
        store.save(client, LAYOUT, state(client))
    waiting = sum(len(states) for states in store._waiting.values())
    assert waiting <= 10 and len(files(folder)) == 5
    store.flush()
    assert [own(store, client)[0] for client in range(55)] == list(range(55))
    assert store._mapped._read_bytes <= 11 * 8, "what was read is let go"


def test_a_file_that_was_cut_is_refused(folder):
    store = ClientStore(folder, run_seed=0)
    store.save(7, LAYOUT, state(1.0))
    (path,) = store.flush()
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(CheckpointError, match=f"{path.name}: cannot be read as safetensors"):
        ClientStore(folder, run_seed=0).load(7, LAYOUT)
    with pytest.raises(CheckpointError, match=f"{path.name}: cannot be read as safetensors"):
        store.load(7, LAYOUT)


def test_a_file_of_another_run_beside_this_ones_is_refused(folder):
    store = ClientStore(folder, run_seed=0)
    store.save(7, LAYOUT, state(1.0))
    (path,) = store.flush()
    write_segment(folder / "personal-a-000009-r0001p0000.safetensors", np.array([3]), [np.zeros(5)], 5)
    with pytest.raises(CheckpointError, match=f"p0000.safetensors: holds 5 elements of a client, not 2 as {path.name}"):
        ClientStore(folder, run_seed=0).load(7, LAYOUT)


@pytest.mark.parametrize("name", ["client-000003.safetensors", "residual-000003.safetensors"])
def test_a_file_for_each_client_is_of_an_older_version(folder, tmp_path, name):
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / name).write_bytes(b"")
    store = ClientStore(folder, run_seed=0)
    with pytest.raises(CheckpointError, match=f"{name}: clients' own tensors in a file each are of an older version"):
        store.replace_with(saved)
    with pytest.raises(CheckpointError, match="older version, which this one does not read. Finish the run with"):
        ClientStore(saved, run_seed=0).load(3, LAYOUT)
