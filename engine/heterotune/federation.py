"""What all strategies of a run share: the fleet, its data and its backbones, loaded once."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from heterotune.backbone.load import Backbone, load_backbone, pick_dtype
from heterotune.collective.channel import Channel
from heterotune.config.deepspeed_json import read_ds_config
from heterotune.config.schema import RunConfig
from heterotune.data.clients_data import FederatedData
from heterotune.data.tokenizing import Rows
from heterotune.fleet.clients import Client, enlist_clients
from heterotune.fleet.model_types import ModelType


@dataclass(frozen=True)
class Federation:
    """The simulated world.

    Attributes:
        config: The resolved run.
        channel: How ranks talk.
        model_types: The fleet, in its order.
        clients: Every client that has data, in client order.
        data: Rows of every client and the held-out rows.
        public: Public rows that alignment reads; None if the run aligns nothing.
        backbones: One frozen LLaMA for each model type.
        device: Where this rank computes.
    """

    config: RunConfig
    channel: Channel
    model_types: tuple[ModelType, ...]
    clients: tuple[Client, ...]
    data: FederatedData
    public: Rows | None
    backbones: tuple[Backbone, ...]
    device: torch.device


def load_backbones(model_types: tuple[ModelType, ...], config: RunConfig, device: torch.device) -> tuple[Backbone, ...]:
    """Load every model type's backbone in fleet order. Every rank must call this."""
    chosen = config.backbone
    ds_config = None if chosen.ds_config == "none" else read_ds_config(chosen.ds_config)
    return tuple(
        load_backbone(
            model_type,
            ds_config=ds_config,
            dtype=pick_dtype(chosen.dtype),
            checkpointing=chosen.checkpointing,
            device=device,
        )
        for model_type in model_types
    )


def enlist(model_types: tuple[ModelType, ...], data: FederatedData) -> tuple[Client, ...]:
    """Return the clients that have rows to train on."""
    return enlist_clients(model_types, [len(rows) for rows in data.train])
