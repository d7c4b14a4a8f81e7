"""What all strategies of a run share: the fleet, its data and its backbones, loaded once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from heterotune.backbone.groups import group_ranks
from heterotune.backbone.load import DTYPES, Backbone, load_backbone, pick_dtype
from heterotune.backbone.mapped import give_back_memory, mappable_files, write_mappable, written_files
from heterotune.collective.channel import ROOT, Channel
from heterotune.collective.roll_call import nodes_of_ranks
from heterotune.config.deepspeed_json import NO_DEEPSPEED, read_ds_config
from heterotune.config.engine_options import NO_QUANTIZATION
from heterotune.config.schema import RunConfig
from heterotune.data.clients_data import FederatedData
from heterotune.data.questions import Questions
from heterotune.data.tokenizing import Rows
from heterotune.fleet.clients import Population
from heterotune.fleet.model_types import ModelType
from heterotune.fleet.placement import Placement

if TYPE_CHECKING:
    from heterotune.backbone.shard_group import ShardGroup


@dataclass(frozen=True)
class Federation:
    """The simulated world.

    Attributes:
        config: The resolved run.
        channel: How ranks talk.
        model_types: The fleet, in its order.
        population: Every client.
        data: Rows of every client and the held-out rows.
        public: Public rows that alignment reads; None if the run aligns nothing.
        placement: Which ranks hold which model types.
        backbones: Place of a model type -> its frozen LLaMA, in fleet order; those that this rank holds.
        device: Where this rank computes.
        data_of_type: The data as each model type sees it, where their tokenizers differ; empty = all see `data`.
        questions_of_type: What the held-out documents ask beside their own loss, for each model type in its tokens.
        label_tokens: The tokens of class names, where a head branch answers in these.
    """

    config: RunConfig
    channel: Channel
    model_types: tuple[ModelType, ...]
    population: Population
    data: FederatedData
    public: Rows | None
    placement: Placement
    backbones: Mapping[int, Backbone]
    device: torch.device
    data_of_type: tuple[FederatedData, ...] = ()
    questions_of_type: tuple[Questions, ...] = ()
    label_tokens: tuple[int, ...] = ()

    @property
    def in_lock_step(self) -> bool:
        """Whether ranks that hold the same model types train each of them at the same time."""
        return next(iter(self.backbones.values())).in_lock_step and self.config.backbone.group != "rank"

    def data_of(self, place: int) -> FederatedData:
        """Return the data as a model type sees it: its held-out rows are in that type's tokens."""
        return self.data_of_type[place] if self.data_of_type else self.data

    def questions_of(self, place: int) -> Questions:
        """Return what the held-out documents ask a model type."""
        return self.questions_of_type[place] if self.questions_of_type else Questions()


def load_backbones(
    model_types: tuple[ModelType, ...],
    config: RunConfig,
    channel: Channel,
    device: torch.device,
    scratch: Path,
    placement: Placement,
) -> dict[int, Backbone]:
    """Load the backbones that this rank holds, by place, in fleet order. Every rank must call this.

    Args:
        model_types: The fleet.
        config: Section `backbone` says how.
        channel: The ranks.
        device: Where this rank computes.
        scratch: A folder that all ranks see, for files that are mapped; nothing of them is left in it.
        placement: Which ranks hold which model types.
    """
    chosen = config.backbone
    ds_config = None if chosen.ds_config == NO_DEEPSPEED else read_ds_config(chosen.ds_config)
    dtype = pick_dtype(chosen.dtype)
    if ds_config is not None:
        _count_gathers(channel)
    files: list[tuple[Path, ...] | None] = [None] * len(model_types)
    if ds_config is None and chosen.quantize == NO_QUANTIZATION and channel.num_ranks > 1:
        files = _write_mapped(model_types, dtype, channel, scratch)
    group = None if ds_config is None else _shard_group(config, channel, placement)
    backbones = {
        place: load_backbone(
            model_types[place],
            ds_config=ds_config,
            dtype=dtype,
            checkpointing=chosen.checkpointing,
            device=device,
            mapped=files[place],
            quantize=chosen.quantize,
            group=group,
        )
        for place in placement.held_by(channel.mpi_rank)
    }
    channel.barrier()
    if channel.mpi_rank == ROOT:
        for model_type in model_types:  # the pages stay as long as a rank maps them
            shutil.rmtree(_mapped_folder(scratch, model_type, dtype), ignore_errors=True)
    return backbones


def _shard_group(config: RunConfig, channel: Channel, placement: Placement) -> ShardGroup:
    """Form the backbone groups that the run wants and return this rank's. Every rank must call this."""
    from heterotune.backbone.shard_group import form_shard_group

    nodes = nodes_of_ranks(channel, os.environ)
    groups = group_ranks(config.backbone.group, nodes, placement.crew_of_rank)
    return form_shard_group(groups, channel.mpi_rank, watchdog_seconds=config.watchdog_seconds)


def _count_gathers(channel: Channel) -> None:
    """Count what ZeRO-3 gathers on this rank beside what the channel itself moves."""
    from heterotune.backbone.gather_count import count_gathers

    count_gathers(channel.traffic.add)


def _write_mapped(
    model_types: tuple[ModelType, ...], dtype: str, channel: Channel, scratch: Path
) -> list[tuple[Path, ...] | None]:
    """Return the files to map for every model type; the root writes those whose own files do not do."""
    own = [mappable_files(model_type.source, DTYPES[dtype]) for model_type in model_types]
    folders = [_mapped_folder(scratch, model_type, dtype) for model_type in model_types]
    for model_type, folder, files in zip(model_types, folders, own, strict=True):
        if files is None and channel.mpi_rank == ROOT:
            write_mappable(model_type, DTYPES[dtype], folder)
    give_back_memory()
    channel.barrier()
    return [files or written_files(folder) for files, folder in zip(own, folders, strict=True)]


def _mapped_folder(scratch: Path, model_type: ModelType, dtype: str) -> Path:
    return scratch / f".{model_type.name}.{dtype}"
