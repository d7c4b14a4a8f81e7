"""Held-out rows as forward passes: for a model type's global adapter, or for clients with each its own adapter.

How rows are cut into passes depends on the rows alone, never on the ranks that the passes are dealt to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from heterotune.data.tokenizing import IGNORED, Rows
from heterotune.training.objective import ChunkBatch

NO_ROW = -1


@dataclass(frozen=True)
class RowPass:
    """Some rows that one forward pass reads.

    Attributes:
        rows: Their numbers, clients' in equal parts; `NO_ROW` fills a part up and counts for nothing.
        clients: Whose own adapters read them; empty = the global one reads all.
        batch: The rows themselves.
    """

    rows: tuple[int, ...]
    clients: tuple[int, ...]
    batch: ChunkBatch


def common_passes(rows: Rows, batch_size: int, device: torch.device) -> list[RowPass]:
    """Cut rows into passes for a global adapter, longest rows first so that little is padding."""
    order = np.argsort(-rows.lengths, kind="stable")
    picks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [_row_pass(rows, pick[None], (), device) for pick in picks]


def personal_passes(
    rows: Rows,
    owner_N: np.ndarray,
    clients: Sequence[int],
    *,
    batch_size: int,
    max_clients: int,
    device: torch.device,
) -> list[RowPass]:
    """Cut clients' rows into passes in which several clients' own adapters run side by side.

    Args:
        rows: Held-out rows.
        owner_N: The client of each.
        clients: Whose rows are wanted; a client without rows is in no pass.
        batch_size: Most rows of a pass, those that fill up included.
        max_clients: Most clients of a pass.
        device: Where the backbone runs.
    """
    pieces = []
    for client in clients:
        own = np.flatnonzero(owner_N == client)
        own = own[np.argsort(-rows.lengths[own], kind="stable")]
        pieces += [(client, own[start : start + batch_size]) for start in range(0, len(own), batch_size)]
    pieces.sort(key=lambda piece: -len(piece[1]))
    passes = []
    while pieces:
        num_rows = len(pieces[0][1])
        num_clients = max(1, min(max_clients, batch_size // num_rows))
        together, pieces = pieces[:num_clients], pieces[num_clients:]
        rows_KB = np.full((len(together), num_rows), NO_ROW, dtype=np.int64)
        for place, (_, own) in enumerate(together):
            rows_KB[place, : len(own)] = own
        passes.append(_row_pass(rows, rows_KB, tuple(client for client, _ in together), device))
    return passes


def _row_pass(rows: Rows, rows_KB: np.ndarray, clients: tuple[int, ...], device: torch.device) -> RowPass:
    """Lay out the rows of a pass, as wide as the longest of them."""
    picks = rows_KB.reshape(-1)
    num_tokens = int(rows.lengths[picks[picks != NO_ROW]].max())
    ids, targets = rows.input_ids[picks, :num_tokens], rows.targets[picks, :num_tokens]
    targets[picks == NO_ROW] = IGNORED
    return RowPass(tuple(picks.tolist()), clients, ChunkBatch.of_rows(ids, targets, len(rows_KB), device))
