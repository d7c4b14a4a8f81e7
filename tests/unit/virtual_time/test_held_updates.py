"""Updates on their way as files: what is read is what was sent."""

from __future__ import annotations

import pytest
import torch

from heterotune.errors import CheckpointError
from heterotune.run_folder import RunFolder
from heterotune.virtual_time.held_updates import HeldUpdates


@pytest.fixture
def held(tmp_path) -> HeldUpdates:
    return HeldUpdates(RunFolder.open(tmp_path))


def test_an_update_comes_back_bit_for_bit(held):
    rows_KP = torch.randn(2, 5)
    held.add(rows_KP, torch.ones(2), [7, 3])
    assert torch.equal(held.read(3, 5), rows_KP[1]) and torch.equal(held.read(7, 5), rows_KP[0])
    held.forget([7, 99])
    assert [path.name for path in held.folder.iterdir()] == ["update-000003.safetensors"]
    with pytest.raises(CheckpointError, match=r"update-000007.safetensors: cannot be read"):
        held.read(7, 5)


def test_what_is_not_of_this_run_is_refused(held):
    held.add(torch.zeros(1, 4), torch.ones(1), [1])
    with pytest.raises(CheckpointError, match=r"it holds \(4,\) torch.float32, not \(5,\) torch.float32; it is not of"):
        held.read(1, 5)


def test_a_checkpoint_brings_back_what_it_had(held, tmp_path):
    held.add(torch.ones(1, 2), torch.ones(1), [1])
    saved = tmp_path / "saved"
    held.folder.rename(saved)
    held.add(torch.zeros(2, 2), torch.ones(2), [1, 2])
    held.replace_with(saved)
    assert held.read(1, 2).tolist() == [1.0, 1.0] and len(list(held.folder.iterdir())) == 1
    held.replace_with(None)
    assert not held.folder.exists()
