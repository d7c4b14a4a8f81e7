"""Checkpoints read into two ZeRO-3 copies on four ranks: whose shards they are, and that the copies are whole.

python shard_groups.py EMPTY_FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from heterotune.backbone import zero3
from heterotune.backbone.groups import group_ranks
from heterotune.backbone.load import load_backbone, read_model
from heterotune.backbone.shard_group import ShardGroup, check_same_in_group, form_shard_group
from heterotune.collective.meeting_point import open_store
from heterotune.collective.opening import open_channel
from heterotune.config.deepspeed_json import read_ds_config
from heterotune.config.fleet_options import FleetEntry
from heterotune.errors import CollectiveError
from heterotune.fleet.model_types import ModelType, read_model_types

WATCHDOG_SECONDS = 60
NODES = ("even", "odd", "even", "odd")
RANDOM = "random:hidden_size=32,num_hidden_layers=2,num_attention_heads=4,seed=3"


def check_copy(model_type: ModelType, group: ShardGroup) -> None:
    """Every parameter is split over the group, and gathered it is the checkpoint's."""
    backbone = load_backbone(
        model_type,
        ds_config=read_ds_config("zero3_cpu"),
        dtype="fp32",
        checkpointing=False,
        device=torch.device("cpu"),
        group=group,
    )
    assert backbone.mpi_ranks == group.mpi_ranks
    lm = read_model(model_type, "fp32")
    plain, expected = lm.model, dict(lm.model.named_parameters())
    found = dict(backbone.llama.named_parameters())
    assert found.keys() == expected.keys()
    for name, parameter in found.items():
        assert parameter.ds_tensor.ds_numel == -(-expected[name].numel() // len(group.mpi_ranks)), name
        assert torch.equal(zero3.gathered(parameter), expected[name]), name
    assert torch.equal(backbone.output_embedding(), lm.lm_head.weight)
    whole_bytes = 4 * sum(parameter.numel() for parameter in lm.parameters())
    assert whole_bytes <= 2 * zero3.shard_bytes(backbone.lm) <= whole_bytes + 8 * len(expected)
    inverse_frequencies = backbone.llama.rotary_emb.inv_freq
    assert torch.equal(inverse_frequencies, plain.rotary_emb.inv_freq)


def model_type_of(model: object) -> ModelType:
    """Return a fleet's only model type."""
    return read_model_types((FleetEntry(name="m", model=str(model), clients=1),))[0]


def check_disagreement(group: ShardGroup) -> None:
    """Ranks that ran other layers than their group are told so; the other group does not hear of it."""
    check_same_in_group([1, 2, group.mpi_ranks[0]], group)
    if 1 in group.mpi_ranks:
        try:
            check_same_in_group([group.get_data_parallel_rank()], group)
        except CollectiveError as error:
            assert "MPI ranks 1, 3 share a backbone, but ran different layers" in str(error)
        else:
            raise AssertionError("different layers were not noticed")


def main() -> None:
    """Make the groups and check them."""
    channel = open_channel("mpi", watchdog_seconds=WATCHDOG_SECONDS)
    zero3.join_job(
        mpi_rank=channel.mpi_rank,
        num_ranks=channel.num_ranks,
        device_index=channel.mpi_rank,
        store=open_store(channel, os.environ, watchdog_seconds=WATCHDOG_SECONDS),
        watchdog_seconds=WATCHDOG_SECONDS,
    )
    groups = group_ranks("node", NODES)
    group = form_shard_group(groups, channel.mpi_rank, watchdog_seconds=WATCHDOG_SECONDS)
    assert group.mpi_ranks == ((0, 2), (1, 3))[channel.mpi_rank % 2]
    folder = Path(sys.argv[1])
    if channel.mpi_rank == 0:  # its own output embedding, weights in several files
        untied = model_type_of(RANDOM + ",tie_word_embeddings=false")
        read_model(untied, "fp32").save_pretrained(folder, max_shard_size="300KB")
        assert len(list(folder.glob("*.safetensors"))) > 1
    channel.barrier()
    for model in ("embedded:small", RANDOM, folder):
        check_copy(model_type_of(model), group)
    check_disagreement(group)
    channel.barrier()
    channel.close()
    print(f"checked {channel.num_ranks} ranks")


if __name__ == "__main__":
    main()
