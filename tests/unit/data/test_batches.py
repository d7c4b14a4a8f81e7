"""Batches: every row once an epoch, drawn from (seed, round, client) alone."""

from __future__ import annotations

import numpy as np
import pytest

from heterotune.data.batches import batches
from heterotune.data.tokenizing import Rows


def _rows(num_rows: int) -> Rows:
    ids = np.zeros((num_rows, 4), np.int64)
    return Rows(ids, ids, np.full(num_rows, 4))


def _draw(num_rows: int = 10, **changes: int) -> np.ndarray:
    arguments = {"seed": 1, "round_number": 2, "client_id": 3, "batch_size": 4, "num_steps": 5} | changes
    return batches(_rows(num_rows), **arguments)


def test_every_epoch_is_a_permutation() -> None:
    picks = _draw()
    assert (picks.shape, picks.dtype) == ((5, 4), np.int64)
    first, second = picks.flatten()[:10], picks.flatten()[10:]
    assert sorted(first) == sorted(second) == list(range(10))
    assert list(first) != list(second)


def test_few_rows_come_again_within_a_batch() -> None:
    assert sorted(_draw(3, batch_size=6, num_steps=1)[0]) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("change", [{"seed": 2}, {"round_number": 3}, {"client_id": 4}])
def test_seed_round_and_client_each_change_the_draw(change: dict[str, int]) -> None:
    assert not np.array_equal(_draw(50, **change), _draw(50))


def test_the_draw_is_the_same_again_and_longer_runs_begin_alike() -> None:
    assert np.array_equal(_draw(), _draw())
    assert np.array_equal(_draw(num_steps=9)[:5], _draw())
