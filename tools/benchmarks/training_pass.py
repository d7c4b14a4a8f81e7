"""What the training benchmarks measure: a random frozen LLaMA, clients' adapters on it, and made-up rows of tokens.

Nothing here is a copy of the engine: chunks are stacked and trained with the engine's own functions. Only the limit is
our own: the same frozen model and loss on the same tokens, without adapters.

Legend: K clients, B rows each, R = K·B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from heterotune.adapters.attach import AttachedAdapter
from heterotune.adapters.bank import Bank, stack_clients
from heterotune.adapters.layout import AdapterLayout, initial_value
from heterotune.adapters.lora import lora_layout
from heterotune.backbone.load import Backbone, load_backbone
from heterotune.config.deepspeed_json import NO_DEEPSPEED, read_ds_config
from heterotune.config.fleet_options import FleetEntry
from heterotune.config.method_options import FedavgLoraOptions, LocalConfig
from heterotune.fleet.chunks import Chunk
from heterotune.fleet.clients import Client
from heterotune.fleet.model_types import read_model_types
from heterotune.randomness import NO_CLIENT
from heterotune.training.local import TrainedChunk, train_chunk
from heterotune.training.objective import ChunkBatch

MODEL_NAME = "random"
SEED = 0


@dataclass(frozen=True)
class Setting:
    """A model with adapters attached.

    Attributes:
        backbone: The frozen model.
        layout: A client's adapter.
        attached: The adapters' hooks on the backbone.
        shared: Key -> first value of every tensor of the adapter.
    """

    backbone: Backbone
    layout: AdapterLayout
    attached: AttachedAdapter
    shared: Mapping[str, Tensor]

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary."""
        return self.backbone.model_type.vocab_size


def random_model(width: int, *, num_layers: int, vocab_size: int) -> str:
    """Return the reference of a random LLaMA with LLaMA's proportions and heads of at most 64."""
    fields = {
        "hidden_size": width,
        "intermediate_size": 11 * width // 4,
        "num_hidden_layers": num_layers,
        "num_attention_heads": max(4, width // 64),
        "vocab_size": vocab_size,
    }
    return "random:" + ",".join(f"{name}={value}" for name, value in fields.items())


def make_setting(
    reference: str, *, ds_config: str = NO_DEEPSPEED, adapter_rank: int = 8, checkpointing: bool = False
) -> Setting:
    """Load a model in fp32 on the CPU and attach LoRA to all its linears. Under ZeRO-3 every rank must call this."""
    model_type = read_model_types((FleetEntry(name=MODEL_NAME, model=reference, clients=1),))[0]
    backbone = load_backbone(
        model_type,
        ds_config=None if ds_config == NO_DEEPSPEED else read_ds_config(ds_config),
        dtype="fp32",
        checkpointing=checkpointing,
        device=torch.device("cpu"),
    )
    layout = lora_layout(FedavgLoraOptions(adapter_rank=adapter_rank), model_type)
    shared = {
        spec.key: torch.from_numpy(initial_value(spec, run_seed=SEED, client_id=NO_CLIENT, name=spec.key))
        for spec in layout.tensors
    }
    return Setting(backbone, layout, AttachedAdapter(layout, backbone.llama), shared)


def make_bank(setting: Setting, num_clients: int) -> Bank:
    """Stack the first adapter once for each client."""
    personal: list[dict[str, Tensor]] = [{} for _ in range(num_clients)]
    return stack_clients(setting.layout, setting.shared, personal, device=setting.backbone.device, head_frame=None)


def make_batch(setting: Setting, num_clients: int, num_rows: int, num_tokens: int) -> ChunkBatch:
    """Draw full rows of random tokens: `num_rows` of `num_tokens` for each client."""
    draw = torch.Generator().manual_seed(SEED)
    shape = (num_clients * num_rows, num_tokens)
    ids_RT = torch.randint(setting.vocab_size, shape, generator=draw)
    targets_RT = torch.randint(setting.vocab_size, shape, generator=draw)
    return ChunkBatch(ids_RT, targets_RT, torch.full((num_clients,), num_rows * num_tokens))


def train(setting: Setting, batch: ChunkBatch, num_clients: int, local: LocalConfig) -> TrainedChunk:
    """Train a chunk for a round as the engine does: stack it, make its local steps, take the updates."""
    num_steps = local.steps or 1
    clients = tuple(Client(number, 0, num_rows=1) for number in range(num_clients))
    chunk = Chunk(0, clients, (num_steps,) * num_clients)
    bank = make_bank(setting, num_clients)
    return train_chunk(setting.backbone, setting.attached, bank, chunk, [batch] * num_steps, local)


def limit_pass(setting: Setting, batch: ChunkBatch) -> None:
    """Run the bare frozen model forward and backward: no adapters, no optimiser; gradients stop at the embeddings.

    The gradient flows to the input embeddings, so every activation has its backward pass, as with adapters everywhere.
    """
    handle = setting.backbone.llama.embed_tokens.register_forward_hook(_require_grad)
    try:
        losses_RT = setting.backbone.lm(batch.input_ids_RT, batch.targets_RT)
    finally:
        handle.remove()
    losses_RT.mean().backward()


def _require_grad(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.detach().requires_grad_()
