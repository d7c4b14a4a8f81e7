"""Small checkpoints of the families that people bring, and what transformers makes of them: expected losses.

python families.py FOLDER: read every one of them into ZeRO-3 shards on this job's ranks and compare.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from heterotune.backbone import zero3
from heterotune.backbone.load import Backbone, load_backbone
from heterotune.collective.meeting_point import open_store
from heterotune.collective.opening import open_channel
from heterotune.config.deepspeed_json import read_ds_config
from heterotune.config.fleet_options import FleetEntry
from heterotune.fleet.model_types import ModelType, read_model_types

SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama-1": {"num_key_value_heads": 4},
    "llama-3": {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}},
    "llama-3-old-spelling": {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
    "llama-3.2": {"tie_word_embeddings": True, "head_dim": 16, "rope_theta": 5e5},
    "tinyllama": {"stored": torch.bfloat16, "shards": "20KB"},
    "smollm": {"tie_word_embeddings": True, "num_attention_heads": 8, "rms_norm_eps": 1e-5, "stored": torch.float16},
    "linear": {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "yarn": {"rope_theta": 2e4, "rope_scaling": YARN},
    "biases": {"attention_bias": True, "mlp_bias": True, "shards": "20KB"},
    "mistral": {"mistral": True, "sliding_window": None},
    "mistral-window": {"mistral": True, "sliding_window": 8, "tie_word_embeddings": True},
}
OLD_SPELLING = ("rope_theta", "rope_scaling")
IDS_RT = torch.arange(82).view(2, 41) * 7 % 97
"""Longer than the window and the original lengths of llama3 and yarn; shorter than what makes `dynamic` change."""


def write_family(name: str, folder: Path) -> torch.Tensor:
    """Write a checkpoint and return the loss of each token as transformers computes it in float32, shape (2, 40)."""
    fields = {**SHAPE, **FAMILIES[name]}
    stored, shards = fields.pop("stored", torch.float32), fields.pop("shards", "1GB")
    is_mistral = fields.pop("mistral", False)
    config = (MistralConfig if is_mistral else LlamaConfig)(**fields)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(len(name))
        lm = (MistralForCausalLM if is_mistral else LlamaForCausalLM)(config)
        for parameter in lm.parameters():  # biases and norms, too, must count
            parameter += 0.05 * torch.randn_like(parameter)
    lm.to(stored).save_pretrained(folder, max_shard_size=shards)
    path = folder / "config.json"
    written = json.loads(path.read_text())
    if any(key in fields for key in OLD_SPELLING):  # as transformers 4 wrote it
        del written["rope_parameters"]
        path.write_text(json.dumps(written | {key: fields[key] for key in OLD_SPELLING if key in fields}))
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = reference(IDS_RT[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), IDS_RT[:, 1:], reduction="none")


def model_type_of(model: object) -> ModelType:
    """Return a fleet's only model type."""
    return read_model_types((FleetEntry(name="m", model=str(model), clients=1),))[0]


def load(model: object, dtype: str = "fp32", ds_config: str | None = None, **more: Any) -> Backbone:
    """Load a model on the CPU."""
    chosen = None if ds_config is None else read_ds_config(ds_config)
    cpu = torch.device("cpu")
    return load_backbone(model_type_of(model), ds_config=chosen, dtype=dtype, checkpointing=False, device=cpu, **more)


def losses(backbone: Backbone) -> torch.Tensor:
    """Return the loss of each token of `IDS_RT`. Ranks that share the backbone must all call this."""
    with torch.no_grad():
        return backbone.lm(IDS_RT[:, :-1], IDS_RT[:, 1:]).float()


def main() -> None:
    """Compare every family under ZeRO-3; `expected.pt` beside them holds what transformers says."""
    channel = open_channel("mpi", watchdog_seconds=60)
    zero3.join_job(
        mpi_rank=channel.mpi_rank,
        num_ranks=channel.num_ranks,
        device_index=channel.mpi_rank,
        store=open_store(channel, os.environ, watchdog_seconds=60),
        watchdog_seconds=60,
    )
    folder = Path(sys.argv[1])
    for name, expected in torch.load(folder / "expected.pt").items():
        torch.testing.assert_close(losses(load(folder / name, ds_config="zero3_cpu")), expected, atol=1e-5, rtol=1e-5)
    for dtype in ("bf16", "fp16"):  # the same numbers as a plain replica's: positions stay in float32
        sharded, plain = (losses(load(folder / "llama-3", dtype, ds)) for ds in ("zero3_cpu", None))
        torch.testing.assert_close(sharded, plain, atol=1e-5, rtol=1e-5)
    channel.barrier()
    channel.close()
    print(f"compared on {channel.num_ranks} ranks")


if __name__ == "__main__":
    main()
