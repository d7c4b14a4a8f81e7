"""What ranks gather in passes over a ZeRO-3 backbone of known size. Every rank writes the bytes of a pass.

python gather_count.py OUTPUT ZERO_OPTIMIZATION_KEYS_AS_JSON...

Beside these keys there may be "forward_only", the number of layers, from the first on, that need no gradient.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from heterotune.backbone import zero3
from heterotune.backbone.gather_count import count_gathers
from heterotune.backbone.load import load_backbone
from heterotune.backbone.shard_group import whole_job
from heterotune.collective.channel import Channel
from heterotune.collective.meeting_point import open_store
from heterotune.collective.opening import open_channel
from heterotune.config.deepspeed_json import read_ds_config
from heterotune.config.fleet_options import FleetEntry
from heterotune.fleet.model_types import read_model_types

WATCHDOG_SECONDS = 60
PERSISTENT_ELEMENTS = 1000  # of zero3_cpu: what is not larger stays gathered
MODEL = "random:hidden_size=64,num_hidden_layers=3,num_attention_heads=4,vocab_size=512,tie_word_embeddings=false"


def pass_bytes(channel: Channel, options: dict[str, int]) -> dict[str, object]:
    """Make three training passes; returns what the last one moved and the bytes of the weights."""
    model_type = read_model_types((FleetEntry(name="m", model=MODEL, clients=1),))[0]
    ds_config = read_ds_config("zero3_cpu")
    forward_only = options.pop("forward_only", 0)
    ds_config["zero_optimization"] |= options
    backbone = load_backbone(
        model_type,
        ds_config=ds_config,
        dtype="fp32",
        checkpointing=False,
        device=torch.device("cpu"),
        group=whole_job(),
    )
    below = backbone.llama.layers[forward_only - 1] if forward_only else backbone.llama.embed_tokens
    below.register_forward_hook(lambda module, inputs, output: output.requires_grad_())
    for _ in range(3):  # the first pass traces, and small weights stay gathered after it
        channel.traffic.drain()
        tokens_RT = torch.arange(8).view(2, 4)
        backbone.lm(tokens_RT, tokens_RT).sum().backward()
    return {
        "moved": {verb: vars(moved) for verb, moved in channel.traffic.drain().items()},
        "weight_bytes": gathered_bytes(backbone.lm),
        "layer_bytes": gathered_bytes(backbone.llama.layers[0]),
        "embedding_bytes": 4 * backbone.llama.embed_tokens.weight.ds_numel,
    }


def gathered_bytes(module: torch.nn.Module) -> int:
    """Return the bytes of the weights that do not stay gathered."""
    sizes = [parameter.ds_numel for parameter in module.parameters()]
    return 4 * sum(size for size in sizes if size > PERSISTENT_ELEMENTS)


def main() -> None:
    """Run the cases of the command line."""
    channel = open_channel("mpi", watchdog_seconds=WATCHDOG_SECONDS)
    zero3.join_job(
        mpi_rank=channel.mpi_rank,
        num_ranks=channel.num_ranks,
        device_index=channel.mpi_rank,
        store=open_store(channel, os.environ, watchdog_seconds=WATCHDOG_SECONDS),
        watchdog_seconds=WATCHDOG_SECONDS,
    )
    for _ in range(2):  # a second time replaces the first and does not count twice
        count_gathers(channel.traffic.add)
    found = [pass_bytes(channel, json.loads(options)) for options in sys.argv[2:]]
    Path(f"{sys.argv[1]}.{channel.mpi_rank}").write_text(json.dumps(found))
    channel.barrier()
    channel.close()


if __name__ == "__main__":
    main()
