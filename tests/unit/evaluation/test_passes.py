"""Held-out rows as passes: every row once, in parts of equal size, and never rows of two clients in one part."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from heterotune.data.tokenizing import IGNORED, Rows
from heterotune.evaluation.passes import NO_ROW, common_passes, personal_passes

CPU = torch.device("cpu")
OWNERS = np.array([0, 0, 0, 0, 0, 1, 1, 2, 4, 4, 4, -1])


@pytest.fixture
def rows() -> Rows:
    """Row i holds token i, and is 2 to 6 tokens long."""
    lengths = np.array([2, 6, 3, 5, 4, 2, 3, 6, 2, 4, 5, 3])
    ids = np.repeat(np.arange(12)[:, None], 6, axis=1)
    targets = np.where(np.arange(6) < lengths[:, None], ids, IGNORED)
    return Rows(ids, targets, lengths)


def test_common_passes_hold_every_row_once_longest_first(rows) -> None:
    passes = common_passes(rows, 5, CPU)
    assert [row_pass.rows for row_pass in passes] == [(1, 7, 3, 10, 4), (9, 2, 6, 11, 0), (5, 8)]
    assert [tuple(row_pass.batch.input_ids_RT.shape) for row_pass in passes] == [(5, 6), (5, 4), (2, 2)]
    assert all(row_pass.clients == () for row_pass in passes)


def check(passes, rows, *, clients: set[int], batch_size: int, max_clients: int) -> None:
    seen = []
    for row_pass in passes:
        assert 1 <= len(row_pass.clients) <= max_clients and len(row_pass.rows) <= batch_size
        parts = np.array(row_pass.rows).reshape(len(row_pass.clients), -1)
        for client, part in zip(row_pass.clients, parts, strict=True):
            assert {OWNERS[row] for row in part if row != NO_ROW} == {client}
        for place, row in enumerate(row_pass.rows):
            targets = row_pass.batch.targets_RT[place]
            wanted = [] if row == NO_ROW else [row] * int(rows.lengths[row])
            assert targets[targets != IGNORED].tolist() == wanted
        seen += [row for row in row_pass.rows if row != NO_ROW]
    assert sorted(seen) == [row for row, owner in enumerate(OWNERS.tolist()) if owner in clients]


@pytest.mark.parametrize(("batch_size", "max_clients"), [(1, 1), (3, 2), (4, 3), (8, 1), (8, 2), (100, 100)])
def test_personal_passes_hold_every_row_of_these_clients_once(rows, batch_size, max_clients) -> None:
    sizes = {"batch_size": batch_size, "max_clients": max_clients}
    for clients in ((0, 1, 2, 3), (4,), (0, 1, 2, 3, 4)):
        passes = personal_passes(rows, OWNERS, clients, device=CPU, **sizes)
        check(passes, rows, clients=set(clients), **sizes)
    assert personal_passes(rows, OWNERS, (3,), device=CPU, **sizes) == []


def test_clients_with_equally_many_rows_share_a_pass(rows) -> None:
    passes = personal_passes(rows, OWNERS, (0, 1, 2, 4), batch_size=6, max_clients=4, device=CPU)
    assert [row_pass.clients for row_pass in passes] == [(0,), (4, 1), (2,)]
    assert passes[1].rows == (10, 9, 8, 6, 5, NO_ROW)
