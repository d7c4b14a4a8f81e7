"""Tells a journal which real objects of a rank belong to which memory component."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

from heterotune.adapters.bank import HeadFrame
from heterotune.aggregation.round_sums import RoundSums
from heterotune.backbone.load import Backbone
from heterotune.backbone.quantized import quantization_states
from heterotune.data.tokenizing import Rows
from heterotune.downlink import Downlink
from heterotune.federation import Federation
from heterotune.profiling.components import (
    ACTIVATIONS,
    ADAPTERS,
    BACKBONE_SHARDS,
    BUFFERS,
    DATA,
    GATHERED_LAYERS,
    LOGITS,
)
from heterotune.profiling.process_memory import resident_part
from heterotune.profiling.recorder import MemoryRecorder
from heterotune.server import GlobalAdapters
from heterotune.topology import Topology
from heterotune.training.objective import ChunkBatch


def attribute_federation(memory: MemoryRecorder, federation: Federation) -> None:
    """Count the backbones and the rows of a federation that was just loaded."""
    backbones = [*federation.backbones.values()]
    for backbone in backbones:
        memory.modules |= {backbone.lm: ACTIVATIONS, backbone.lm.head: LOGITS}
    if backbones[0].in_lock_step:
        _attribute_sharded(memory, backbones)
    elif backbones[0].is_mapped:
        _attribute_mapped(memory, backbones)
    else:
        for weight in _weights(backbones):
            memory.holdings.follow(BACKBONE_SHARDS, weight)
    public = () if federation.public is None else (federation.public,)
    heldout = {id(each.heldout): each.heldout for each in (federation.data, *federation.data_of_type)}
    for rows in (*federation.data.train.held(), *heldout.values(), *public):
        _follow_rows(memory, rows)


def attribute_strategy(
    memory: MemoryRecorder,
    adapters: GlobalAdapters,
    frames: Sequence[HeadFrame | None],
    heldout: Sequence[ChunkBatch],
) -> None:
    """Count what one strategy keeps between rounds."""
    memory.holdings.ask(ADAPTERS, adapters.held_bytes)
    for thing, component in ((frames, ADAPTERS), (heldout, DATA)):
        for each in thing:
            for tensor in () if each is None else vars(each).values():
                if tensor is not None:
                    memory.holdings.follow(component, tensor)


def attribute_messages(memory: MemoryRecorder, downlink: Downlink, sums: RoundSums, topology: Topology) -> None:
    """Count what a strategy's rounds use again: messages, the exact sums, and what a topology needs beside them."""
    for source in (downlink.held_bytes, sums.held_bytes, topology.held_bytes):
        memory.holdings.ask(BUFFERS, source)


def _attribute_sharded(memory: MemoryRecorder, backbones: Sequence[Backbone]) -> None:
    """Count ZeRO-3's shards where they are, and the layers that are whole between passes."""
    from heterotune.backbone import zero3

    for backbone in backbones:
        for shard in zero3.shards(backbone.lm):
            memory.holdings.follow(BACKBONE_SHARDS, shard)
    for swap_buffer in zero3.swap_buffers([backbone.lm for backbone in backbones]):
        memory.holdings.follow(BUFFERS, swap_buffer)

    def gathered_bytes() -> int:
        return sum(zero3.gathered_bytes(backbone.lm) for backbone in backbones)

    memory.holdings.ask(GATHERED_LAYERS, gathered_bytes, backbones[0].device.type)
    folders = zero3.swap_folders([backbone.lm for backbone in backbones])
    if folders:
        memory.nvme_bytes = lambda: sum(file.stat().st_size for folder in folders for file in folder.glob("*.swp"))


def _attribute_mapped(memory: MemoryRecorder, backbones: Sequence[Backbone]) -> None:
    """Count of mapped replicas what this process has paged in; other ranks may share the pages."""
    places = {(weight.data_ptr(), weight.nbytes) for weight in _weights(backbones)}

    def paged_in_bytes() -> int:
        return sum(resident_part(address, num_bytes) for address, num_bytes in places)

    memory.holdings.ask(BACKBONE_SHARDS, paged_in_bytes)
    memory.maps_backbones(paged_in_bytes)


def _weights(backbones: Sequence[Backbone]) -> Iterable[Tensor]:
    for backbone in backbones:
        yield from backbone.lm.parameters()
        yield from quantization_states(backbone.lm)


def _follow_rows(memory: MemoryRecorder, rows: Rows) -> None:
    for array in (rows.input_ids, rows.targets, rows.lengths):
        if not isinstance(array, np.memmap):  # the system pages a mapped file in and out as it likes
            memory.holdings.follow(DATA, array)
