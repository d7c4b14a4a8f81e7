"""A client's files: its own tensors and what it owes, each under its name only when whole, never changed in place."""

from __future__ import annotations

import os

import torch

from heterotune.adapters.layout import AdapterLayout, TensorSpec
from heterotune.client_store import ClientStore

LAYOUT = AdapterLayout("a", (TensorSpec("own", (2,), "client", "", "dema.client", "0"),))


def test_a_client_has_the_files_that_were_saved(tmp_path):
    store = ClientStore(tmp_path / "clients", run_seed=0)
    assert store.paths(7) == ()
    assert torch.equal(store.load_residual(7, 3), torch.zeros(3))
    store.save_residual(7, torch.tensor([1.0, -2.0, 0.5]))
    store.save(7, LAYOUT, torch.tensor([4.0, 5.0]))
    assert [path.name for path in store.paths(7)] == ["client-000007.safetensors", "residual-000007.safetensors"]
    assert torch.equal(store.load_residual(7, 3), torch.tensor([1.0, -2.0, 0.5]))
    assert torch.equal(store.load(7, LAYOUT)["own"], torch.tensor([4.0, 5.0]))
    assert store.paths(8) == ()


def test_what_a_checkpoint_holds_does_not_change(tmp_path):
    store, saved = ClientStore(tmp_path / "clients", run_seed=0), tmp_path / "saved"
    store.save_residual(7, torch.ones(3))
    saved.mkdir()
    os.link(store.paths(7)[0], saved / store.paths(7)[0].name)
    store.save_residual(7, torch.zeros(3))
    store.save_residual(9, torch.zeros(3))
    store.replace_with(saved)
    assert torch.equal(store.load_residual(7, 3), torch.ones(3))
    assert store.paths(9) == ()


def test_values_that_are_not_finite_do_not_replace_sound_ones(tmp_path):
    store = ClientStore(tmp_path / "clients", run_seed=0)
    store.save(7, LAYOUT, torch.tensor([4.0, 5.0]))
    store.save(7, LAYOUT, torch.tensor([4.0, torch.nan]))
    assert torch.equal(store.load(7, LAYOUT)["own"], torch.tensor([4.0, 5.0]))
