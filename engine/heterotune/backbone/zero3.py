"""DeepSpeed ZeRO-3 for a frozen backbone: shards over the backbone group, offloaded parameters, no optimizer.

With no optimizer DeepSpeed builds a `DeepSpeedZeRoOffload`: hooks gather a layer's weights before it runs, forward and
backward, and release them after. Adapters stay outside: they must not be parameters of the module that it sees.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import deepspeed
import torch
import torch.distributed
from deepspeed.runtime.zero.parameter_offload import DeepSpeedZeRoOffload
from torch import Tensor, nn

from heterotune.backbone.ops import skip_unused_comm_op
from heterotune.errors import LaunchError


def join_backbone_group(
    *, mpi_rank: int, num_ranks: int, local_rank: int, master_address: str, master_port: int, watchdog_seconds: int
) -> None:
    """Form the process group of ZeRO's collectives (gloo on CPU, nccl on GPU). Every rank must call this.

    Raises:
        LaunchError: If DeepSpeed sees another number of ranks than the job has.
    """
    if not torch.distributed.is_initialized():
        os.environ.update(
            RANK=str(mpi_rank),
            WORLD_SIZE=str(num_ranks),
            LOCAL_RANK=str(local_rank),
            MASTER_ADDR=master_address,
            MASTER_PORT=str(master_port),
        )
    skip_unused_comm_op()
    deepspeed.init_distributed(
        dist_backend="nccl" if torch.cuda.is_available() else "gloo",
        auto_mpi_discovery=False,
        timeout=timedelta(seconds=watchdog_seconds),
        verbose=False,
    )
    seen = torch.distributed.get_world_size()
    if seen != num_ranks:
        raise LaunchError(
            f"DeepSpeed sees {seen} ranks, but this job has {num_ranks}. Start all ranks with one launcher."
        )


def shard(module: nn.Module, ds_config: dict[str, Any], dtype: torch.dtype) -> nn.Module:
    """Partition a frozen module over the backbone group. Every rank must call this.

    Args:
        module: The backbone; all its parameters are frozen.
        ds_config: The user's DeepSpeed JSON, checked; what the run owns is added here.
        dtype: The backbone's dtype.

    Returns:
        The module with ZeRO's hooks; call it like the original.
    """
    assert not any(parameter.requires_grad for parameter in module.parameters())
    engine, *_ = deepspeed.initialize(model=module, config=owned_config(ds_config, dtype))
    if not isinstance(engine.optimizer, DeepSpeedZeRoOffload) or engine.zero_optimization_stage() != 3:
        raise LaunchError(f"DeepSpeed did not shard the backbone (stage {engine.zero_optimization_stage()}).")
    if engine.world_size != torch.distributed.get_world_size():
        raise LaunchError(f"DeepSpeed's engine runs on {engine.world_size} ranks, not the job's.")
    return engine.module


def owned_config(ds_config: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Return the DeepSpeed configuration of a frozen backbone: the user's JSON and the keys that the run owns."""
    owned: dict[str, Any] = {"train_micro_batch_size_per_gpu": 1}
    if dtype == torch.bfloat16:
        owned["bf16"] = {"enabled": True}
    if dtype == torch.float16:
        owned["fp16"] = {"enabled": True}
    return {**ds_config, **owned}


@contextmanager
def partition_while_loading(ds_config: dict[str, Any], dtype: torch.dtype):
    """Within this context `from_pretrained` partitions each weight as it is read. Every rank must enter it."""
    from transformers.integrations import HfDeepSpeedConfig

    alive = HfDeepSpeedConfig(owned_config(ds_config, dtype))
    try:
        yield
    finally:
        del alive


def gathered(parameter: nn.Parameter) -> Tensor:
    """Return a whole copy of a partitioned parameter on the CPU. Every rank must call this."""
    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().cpu().clone()
