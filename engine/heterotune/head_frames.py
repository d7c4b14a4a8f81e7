"""Align the head branch before round 1: all model types read the same public rows, the root finds the frozen maps.

The diagnostic says whether sharing can work: how well the coordinates agree, and whether the types' public loss
gradients with respect to the shared core point the same way (near 0 would mean that what is shared is noise).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from heterotune.data.tokenizing import IGNORED, Rows
from heterotune.federation import Federation
from heterotune.training.objective import ChunkBatch, client_losses

ROWS_PER_PASS = 16
GRADIENT_ROWS = 4


def align_and_diagnose(
    federation: Federation,
    attached: Mapping[int, AttachedAdapter],
    head: HeadBranch,
    global_bank: Callable[[int, HeadFrame], Bank],
) -> tuple[list[HeadFrame], list[dict[str, Any]]]:
    """Find every type's frame, and how well the types agree. Every rank must call this.

    Args:
        federation: Backbones, public rows and channel.
        attached: Place of a model type -> its adapters on its backbone, where this rank holds it.
        head: Shape of the branch.
        global_bank: Makes a model type's global adapter with a frame: (place, frame) -> bank.

    Returns:
        The frames, and what to log of them.
    """
    assert federation.public is not None
    frames, correlation = align_heads(federation, head)
    correlations = [{"name": "alignment/correlation", "value": correlation, "unit": "correlation"}]
    if federation.config.heterotune.align_positions == "answer":  # no label is read, so there is no loss
        return frames, correlations
    banks = {place: global_bank(place, frames[place]) for place in federation.backbones}
    cosines = gradient_cosines(federation, attached, banks, federation.public)
    return frames, [*correlations, *cosines]


def align_heads(federation: Federation, head: HeadBranch) -> tuple[list[HeadFrame], float]:
    """Find the frozen part of every type's head branch. Every rank must call this; every rank gets the root's bits.

    Args:
        federation: Backbones and channel; options say the method and the number of positions.
        head: Shape of the branch.

    Returns:
        One frame for each type, on this rank's device; and the mean correlation between types (see `Alignment`).
    """
    places = range(len(federation.model_types))
    states = [public_states(federation, place) for place in places]
    basis_QV = _output_basis(federation, head)
    aligned = align_states(federation, states, head.head_rank)
    return frames_of(federation, aligned, from_root(basis_QV, federation.channel)), aligned.correlation


def align_states(federation: Federation, states: Sequence[Tensor | None], head_rank: int) -> Alignment:
    """Find every type's map from what `public_states` returned. Every rank must call this; all get the root's maps."""
    config, channel = federation.config, federation.channel
    if channel.mpi_rank == ROOT:
        found = align_types(states, head_rank, config.heterotune.align, run_seed=config.seed)
    else:
        widths = [model_type.width for model_type in federation.model_types]
        maps = tuple(torch.zeros(head_rank, width) for width in widths)
        found = Alignment(maps, tuple(torch.zeros(width) for width in widths), 0.0)
    down, mean = (tuple(from_root(each, channel) for each in tensors) for tensors in (found.down, found.mean))
    return Alignment(down, mean, found.correlation)


def frames_of(federation: Federation, aligned: Alignment, basis_QV: Tensor) -> list[HeadFrame]:
    """Return every type's frame on this rank's device; types share the basis."""
    basis_QV = basis_QV.to(federation.device)
    return [
        HeadFrame(down.to(federation.device), mean.to(federation.device), basis_QV)
        for down, mean in zip(aligned.down, aligned.mean, strict=True)
    ]


def _output_basis(federation: Federation, head: HeadBranch) -> Tensor:
    """Return Q; the root's counts. Every rank must call this."""
    vocab_size = federation.model_types[0].vocab_size
    if head.outputs == "labels":  # every rank knows the tokens: no embedding moves
        return label_basis(federation.label_tokens, vocab_size)
    embeddings = [output_embedding(federation, place) for place in range(len(federation.model_types))]
    if federation.channel.mpi_rank != ROOT:
        return torch.zeros(head.basis_rank, vocab_size)
    return vocabulary_basis(embeddings, head.basis_rank)


def gradient_cosines(
    federation: Federation, attached: Mapping[int, AttachedAdapter], banks: Mapping[int, Bank], public: Rows
) -> list[dict[str, Any]]:
    """Return metrics: the cosine between every two types' public loss gradients of the head core; none but at the root.

    Every rank must call this.
    """
    gradients = []
    for place in range(len(federation.model_types)):
        mine = None
        if place in banks:
            mine = _core_gradient(federation.backbones[place], attached[place], banks[place], public)
        gradients.append(_at_root(mine, np.float64, federation, place))
    if federation.channel.mpi_rank != ROOT:
        return []
    names = [model_type.name for model_type in federation.model_types]
    metrics = []
    for j, i in combinations(range(len(gradients)), 2):
        pair = f"{names[j]}:{names[i]}"
        cosine = torch.nn.functional.cosine_similarity(gradients[i], gradients[j], dim=0).item()
        metrics.append({"name": "alignment/gradient_cosine", "pair": pair, "value": cosine, "unit": "cosine"})
    return metrics


def _core_gradient(backbone: Backbone, adapter: AttachedAdapter, bank: Bank, public: Rows) -> Tensor:
    """Return the public loss gradient of the head core, float64 on the CPU, flat. The group's ranks must call this."""
    bank.zero_grad()
    batch = _public_batch(public, slice(0, GRADIENT_ROWS), backbone.device)
    with adapter.use(bank):
        client_losses(backbone, bank, batch).sum().backward()
    gradient = bank[bank.layout.head.core].grad.double().flatten().cpu()
    bank.zero_grad()
    return gradient


@torch.no_grad()
def public_states(federation: Federation, place: int) -> Tensor | None:
    """Return a type's final hidden states at the first `align_tokens` positions of public rows that count.

    An adapter that is in use counts. Every rank must call this; float32 on the CPU, (N, D), None but at the root.
    """
    num_positions = federation.config.heterotune.align_tokens
    mine = _states_of_share(federation, place, num_positions) if place in federation.backbones else []
    gathered = federation.channel.gather_bytes(b"".join(mine))
    if gathered is None:
        return None
    states = np.frombuffer(bytearray().join(gathered), dtype=np.float32)
    return torch.from_numpy(states.reshape(-1, federation.model_types[place].width))[:num_positions]


def _states_of_share(federation: Federation, place: int, num_positions: int) -> list[bytes]:
    """Return this rank's part of the states. Batches are dealt to the ranks that hold the type, equally many passes."""
    backbone, seat = federation.backbones[place], federation.placement.seat(federation.channel.mpi_rank, place)
    public = federation.public
    batches = _first_batches(public, num_positions)
    num_passes = -(-len(batches) // seat.num_ranks)
    mine = []
    for number in range(seat.number * num_passes, (seat.number + 1) * num_passes):
        batch = _public_batch(public, batches[min(number, len(batches) - 1)], backbone.device)
        hidden = backbone.lm(batch.input_ids_RT, None)
        if number < len(batches):  # beyond them a rank only keeps the others company
            mine.append(hidden[batch.targets_RT != IGNORED].float().cpu().numpy().tobytes())
    return mine


def output_embedding(federation: Federation, place: int, tokens: Sequence[int] | None = None) -> Tensor | None:
    """Return a type's output embedding, float32, (V, D), or its rows of some tokens; at the root at least.

    Every rank must call this, with the same tokens.
    """
    mine = federation.backbones[place].output_embedding(tokens) if place in federation.backbones else None
    found = _at_root(mine, np.float32, federation, place)
    return None if found is None else found.view(-1, federation.model_types[place].width)


def _at_root(mine: Tensor | None, dtype: type[np.floating], federation: Federation, place: int) -> Tensor | None:
    """Return what ranks that hold a type have, at the root: flat if it came from another rank; what is mine elsewhere.

    Every rank must call this. Nothing moves if the root holds the type itself.

    Args:
        mine: On the CPU, the same on every rank that holds the type; None elsewhere.
        dtype: Its elements'.
        federation: Says who does.
        place: The model type.
    """
    holders, channel = federation.placement.ranks_of_type[place], federation.channel
    if ROOT in holders:
        return mine
    gives = mine is not None and channel.mpi_rank == holders[0]
    gathered = channel.gather_bytes(mine.contiguous().numpy().tobytes() if gives else b"")
    if gathered is None:
        return mine
    return torch.from_numpy(np.frombuffer(gathered[holders[0]], dtype=dtype))


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
    longest = int(public.lengths[rows].max())
    return ChunkBatch.of_rows(public.input_ids[rows, :longest], public.targets[rows, :longest], 1, device)


def from_root(tensor: Tensor, channel: Channel) -> Tensor:
    """Return the root's tensor, on every rank, of the same shape on each. Every rank must call this."""
    array = np.ascontiguousarray(tensor.numpy())
    channel.broadcast(array)
    return torch.from_numpy(array)
