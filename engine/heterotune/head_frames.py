"""Align the head branch before round 1: all model types read the same public rows, the root finds the frozen maps.

The diagnostic says whether sharing can work: how well the coordinates agree, and whether the types' public loss
gradients with respect to the shared core point the same way (near 0 would mean that what is shared is noise).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heterotune.adapters.alignment import Alignment, align_types, label_basis, vocabulary_basis
from heterotune.adapters.attach import AttachedAdapter
from heterotune.adapters.bank import Bank, HeadFrame
from heterotune.adapters.layout import HeadBranch
from heterotune.backbone.load import Backbone
from heterotune.collective.channel import ROOT, Channel
from heterotune.config.method_options import HeterotuneOptions
from heterotune.data.tokenizing import IGNORED, Rows
from heterotune.federation import Federation
from heterotune.training.objective import ChunkBatch, client_losses

ROWS_PER_PASS = 16
GRADIENT_ROWS = 4


def align_and_diagnose(
    federation: Federation,
    attached: Sequence[AttachedAdapter],
    head: HeadBranch,
    global_bank: Callable[[int, HeadFrame], Bank],
) -> tuple[list[HeadFrame], list[dict[str, Any]]]:
    """Find every type's frame, and how well the types agree. Every rank must call this.

    Args:
        federation: Backbones, public rows and channel.
        attached: The adapters of each model type on its backbone.
        head: Shape of the branch.
        global_bank: Makes a model type's global adapter with a frame: (place, frame) -> bank.

    Returns:
        The frames, and what to log of them.
    """
    assert federation.public is not None
    frames, correlation = align_heads(
        federation.backbones,
        federation.public,
        head,
        federation.config.heterotune,
        federation.channel,
        run_seed=federation.config.seed,
        label_tokens=federation.label_tokens,
    )
    correlations = [{"name": "alignment/correlation", "value": correlation, "unit": "correlation"}]
    if federation.config.heterotune.align_positions == "answer":  # no label is read, so there is no loss
        return frames, correlations
    banks = [global_bank(place, frame) for place, frame in enumerate(frames)]
    cosines = gradient_cosines(federation.backbones, attached, banks, federation.public)
    return frames, [*correlations, *cosines]


def align_heads(
    backbones: Sequence[Backbone],
    public: Rows,
    head: HeadBranch,
    options: HeterotuneOptions,
    channel: Channel,
    *,
    run_seed: int,
    label_tokens: Sequence[int] = (),
) -> tuple[list[HeadFrame], float]:
    """Find the frozen part of every type's head branch. Every rank must call this; every rank gets the root's bits.

    Args:
        backbones: In model-type order.
        public: Rows that all types read.
        head: Shape of the branch.
        options: Method and number of positions.
        channel: The ranks.
        run_seed: For random maps (`align: none`).
        label_tokens: The tokens of class names, for a branch that answers in these.

    Returns:
        One frame for each type, on its backbone's device; and the mean correlation between types (see `Alignment`).
    """
    states = [_public_states(backbone, public, options.align_tokens, channel) for backbone in backbones]
    embeddings = [backbone.output_embedding() for backbone in backbones]
    widths = [backbone.model_type.width for backbone in backbones]
    if channel.mpi_rank == ROOT:
        aligned = align_types(states, head.head_rank, options.align, run_seed=run_seed)
        basis_QV = _output_basis(embeddings, head, label_tokens)
    else:
        aligned = Alignment(
            tuple(torch.zeros(head.head_rank, width) for width in widths), tuple(torch.zeros(w) for w in widths), 0.0
        )
        basis_QV = torch.zeros(head.basis_rank, embeddings[0].shape[0])
    frames = []
    shared_basis = _from_root(basis_QV, channel)
    for backbone, down, mean in zip(backbones, aligned.down, aligned.mean, strict=True):
        tensors = (_from_root(down, channel), _from_root(mean, channel), shared_basis)
        frames.append(HeadFrame(*(tensor.to(backbone.device) for tensor in tensors)))
    return frames, aligned.correlation


def _output_basis(embeddings: Sequence[Tensor], head: HeadBranch, label_tokens: Sequence[int]) -> Tensor:
    """Return Q."""
    if head.outputs == "labels":
        return label_basis(label_tokens, embeddings[0].shape[0])
    return vocabulary_basis(embeddings, head.basis_rank)


def gradient_cosines(
    backbones: Sequence[Backbone], attached: Sequence[AttachedAdapter], banks: Sequence[Bank], public: Rows
) -> list[dict[str, Any]]:
    """Return metrics: the cosine between every two types' public loss gradients of the head core.

    Every rank must call this.
    """
    gradients = []
    for backbone, adapter, bank in zip(backbones, attached, banks, strict=True):
        bank.zero_grad()
        batch = _public_batch(public, slice(0, GRADIENT_ROWS), backbone.device)
        with adapter.use(bank):
            client_losses(backbone, bank, batch).sum().backward()
        gradients.append(bank[bank.layout.head.core].grad.double().flatten().cpu())
        bank.zero_grad()
    metrics = []
    for j, i in combinations(range(len(gradients)), 2):
        pair = f"{backbones[j].model_type.name}:{backbones[i].model_type.name}"
        cosine = torch.nn.functional.cosine_similarity(gradients[i], gradients[j], dim=0).item()
        metrics.append({"name": "alignment/gradient_cosine", "pair": pair, "value": cosine, "unit": "cosine"})
    return metrics


@torch.no_grad()
def _public_states(backbone: Backbone, public: Rows, num_positions: int, channel: Channel) -> Tensor | None:
    """Return final hidden states at the first positions that count, float32 on the CPU, (N, D); None but at the root.

    Batches are dealt to ranks. Every rank must call this; all make the same number of passes.
    """
    batches = _first_batches(public, num_positions)
    num_passes = -(-len(batches) // channel.num_ranks)
    mine = []
    for number in range(channel.mpi_rank * num_passes, (channel.mpi_rank + 1) * num_passes):
        batch = _public_batch(public, batches[min(number, len(batches) - 1)], backbone.device)
        hidden = backbone.lm(batch.input_ids_RT, None)
        if number < len(batches):  # beyond them a rank only keeps the others company
            mine.append(hidden[batch.targets_RT != IGNORED].float().cpu().numpy().tobytes())
    gathered = channel.gather_bytes(b"".join(mine))
    if gathered is None:
        return None
    states = np.frombuffer(bytearray().join(gathered), dtype=np.float32).reshape(-1, backbone.model_type.width)
    return torch.from_numpy(states)[:num_positions]


def _first_batches(public: Rows, num_positions: int) -> list[slice]:
    """Return as many batches of rows as hold so many positions that count, all rows if there are fewer."""
    batches, num_found = [], 0
    for start in range(0, len(public.lengths), ROWS_PER_PASS):
        batches.append(slice(start, start + ROWS_PER_PASS))
        num_found += int((public.targets[batches[-1]] != IGNORED).sum())
        if num_found >= num_positions:
            break
    return batches


def _public_batch(public: Rows, rows: slice, device: torch.device) -> ChunkBatch:
    return ChunkBatch.of_rows(public.input_ids[rows], public.targets[rows], 1, device)


def _from_root(tensor: Tensor, channel: Channel) -> Tensor:
    array = np.ascontiguousarray(tensor.numpy())
    channel.broadcast(array)
    return torch.from_numpy(array)
