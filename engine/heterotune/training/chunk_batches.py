"""The rows that a chunk of clients trains on, step by step.

Legend: K clients, B rows each, R = K·B rows in client order, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from heterotune.config.method_options import LocalConfig
from heterotune.data.batches import batches
from heterotune.data.client_rows import ClientRows
from heterotune.data.tokenizing import IGNORED, Rows
from heterotune.fleet.chunks import Chunk
from heterotune.training.label_priors import LabelPriors
from heterotune.training.objective import ChunkBatch


def steps_of(num_rows: int, local: LocalConfig) -> int:
    """Return a client's local steps in a round."""
    if local.epochs is None:
        return local.steps or 1
    return local.epochs * -(-num_rows // local.batch_size)


@dataclass(frozen=True)
class PreparedChunk:
    """A chunk's rows for all its passes, on the host.

    Attributes:
        passes: For each pass input ids and targets (R, T), int64.
        labels: For each pass the rows' classes (R,), int64, -1 = none.
        num_clients: K.
        offset_KV: What each client adds to the logits where an answer begins, float32; None = nothing.
        padding_share: Positions of clients that still train that hold no token, over all such positions.
    """

    passes: tuple[tuple[np.ndarray, np.ndarray], ...]
    labels: tuple[np.ndarray, ...]
    num_clients: int
    padding_share: float
    offset_KV: np.ndarray | None = None

    def batches(self, device: torch.device) -> Iterator[ChunkBatch]:
        """Yield one batch a pass, on the device where the backbone runs."""
        for (ids_RT, targets_RT), labels_R in zip(self.passes, self.labels, strict=True):
            yield ChunkBatch.of_rows(ids_RT, targets_RT, self.num_clients, device, labels_R, self.offset_KV)


def prepare_chunk(
    chunk: Chunk,
    rows_of: Mapping[int, Rows] | ClientRows,
    local: LocalConfig,
    *,
    run_seed: int,
    round_number: int,
    priors: LabelPriors | None = None,
) -> PreparedChunk:
    """Draw the rows of a chunk. A client's rows depend on the client and the round, not on who shares the chunk.

    Rows are cut to the longest of the pass; a client that has made all its steps has rows that do not count.

    Args:
        chunk: The clients and their steps.
        rows_of: Training rows by client id.
        local: Batch size.
        run_seed: The run's seed.
        round_number: The round.
        priors: Turns a client's labels into what it adds to its logits; None = it adds nothing.
    """
    rows_K = [rows_of[client.client_id] for client in chunk.clients]
    picks_KSB = [
        batches(
            rows,
            seed=run_seed,
            round_number=round_number,
            client_id=client.client_id,
            batch_size=local.batch_size,
            num_steps=num_steps,
        )
        for client, rows, num_steps in zip(chunk.clients, rows_K, chunk.num_steps, strict=True)
    ]
    passes, labels, num_tokens, num_positions = [], [], 0, 0
    for step in range(chunk.num_passes):
        parts = [_client_rows(rows, picks_SB, step) for rows, picks_SB in zip(rows_K, picks_KSB, strict=True)]
        longest = max(int(part.lengths.max()) for part in parts)
        ids_RT = np.concatenate([part.input_ids[:, :longest] for part in parts])
        targets_RT = np.concatenate([part.targets[:, :longest] for part in parts])
        passes.append((ids_RT, targets_RT))
        labels.append(np.concatenate([part.labels for part in parts]))
        active = [part.lengths for part, steps in zip(parts, chunk.num_steps, strict=True) if step < steps]
        num_tokens += sum(int(lengths.sum()) for lengths in active)
        num_positions += sum(len(lengths) * longest for lengths in active)
    offset_KV = None
    if priors is not None:
        offset_KV = np.stack([priors.offsets(rows_of[client.client_id]) for client in chunk.clients])
    padding_share = 1.0 - num_tokens / num_positions
    return PreparedChunk(tuple(passes), tuple(labels), len(chunk.clients), padding_share, offset_KV)


def _client_rows(rows: Rows, picks_SB: np.ndarray, step: int) -> Rows:
    """Return a client's rows of a step; of a finished client rows that do not count."""
    if step < len(picks_SB):
        return rows.take(picks_SB[step])
    done = rows.take(picks_SB[0])
    return Rows(done.input_ids, np.full_like(done.targets, IGNORED), np.ones_like(done.lengths))
