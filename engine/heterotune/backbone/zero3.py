"""DeepSpeed ZeRO-3 for a frozen backbone: shards over the backbone group, offloaded parameters, no optimizer.

With no optimizer DeepSpeed builds a `DeepSpeedZeRoOffload`: hooks gather a layer's weights before it runs, forward and
backward, and release them after. Adapters stay outside: they must not be parameters of the module that it sees.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.runtime.swap_tensor.partitioned_param_swapper import AsyncPartitionedParameterSwapper
from deepspeed.runtime.zero.parameter_offload import DeepSpeedZeRoOffload
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from torch import Tensor, nn

from heterotune.backbone.groups import spell_ranks
from heterotune.backbone.ops import skip_unused_comm_op
from heterotune.backbone.shard_group import ShardGroup
from heterotune.errors import LaunchError


def join_job(
    *, mpi_rank: int, num_ranks: int, device_index: int, store: dist.Store | None, watchdog_seconds: float
) -> None:
    """Form the process group of all ranks (gloo on CPU, nccl on GPU). Every rank must call this.

    Args:
        mpi_rank: This rank.
        num_ranks: In the job.
        device_index: This rank's GPU among those that it sees.
        store: Where the ranks meet; unused, and may be None, where torch.distributed already runs.
        watchdog_seconds: Longest wait for another rank.

    Raises:
        LaunchError: If DeepSpeed sees another number of ranks than the job has.
    """
    timeout = timedelta(seconds=watchdog_seconds)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    os.environ["LOCAL_RANK"] = str(device_index)  # DeepSpeed takes it for the GPU's number
    if "OMPI_COMM_WORLD_LOCAL_RANK" in os.environ:  # and wants this one to be equal
        os.environ["OMPI_COMM_WORLD_LOCAL_RANK"] = str(device_index)
    if not dist.is_initialized():
        os.environ.update(RANK=str(mpi_rank), WORLD_SIZE=str(num_ranks))
        bound = num_ranks > 1 and backend == "nccl"
        dist.init_process_group(
            backend,
            store=store,
            rank=mpi_rank,
            world_size=num_ranks,
            timeout=timeout,
            device_id=torch.device("cuda", device_index) if bound else None,
        )
    skip_unused_comm_op()
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, timeout=timeout, verbose=False)
    seen = dist.get_world_size()
    if seen != num_ranks:
        raise LaunchError(
            f"DeepSpeed sees {seen} ranks, but this job has {num_ranks}. Start all ranks with one launcher."
        )


def shard(module: nn.Module, ds_config: dict[str, Any], dtype: torch.dtype, group: ShardGroup) -> nn.Module:
    """Partition a frozen module over a backbone group. Every rank of the group must call this.

    Args:
        module: The backbone; all its parameters are frozen. Those that are partitioned already stay as they are.
        ds_config: The user's DeepSpeed JSON, checked; what the run owns is added here.
        dtype: The backbone's dtype.
        group: From `form_shard_group`.

    Returns:
        The module with ZeRO's hooks; call it like the original.
    """
    assert not any(parameter.requires_grad for parameter in module.parameters())
    engine, *_ = deepspeed.initialize(model=module, config=owned_config(ds_config, dtype), mpu=group)
    if not isinstance(engine.optimizer, DeepSpeedZeRoOffload) or engine.zero_optimization_stage() != 3:
        raise LaunchError(f"DeepSpeed did not shard the backbone (stage {engine.zero_optimization_stage()}).")
    num_sharing = {parameter.ds_zero_partition_world_size for parameter in module.parameters()}
    if num_sharing != {len(group.mpi_ranks)}:
        wanted = spell_ranks(group.mpi_ranks)
        raise LaunchError(f"DeepSpeed sharded the backbone over {sorted(num_sharing)} ranks, not over {wanted}.")
    return engine.module


def owned_config(ds_config: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Return the DeepSpeed configuration of a frozen backbone: the user's JSON and the keys that the run owns."""
    owned: dict[str, Any] = {"train_micro_batch_size_per_gpu": 1}
    if dtype == torch.bfloat16:
        owned["bf16"] = {"enabled": True}
    if dtype == torch.float16:
        owned["fp16"] = {"enabled": True}
    return {**ds_config, **owned}


def with_own_swap_folder(ds_config: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a DeepSpeed configuration whose NVMe files, if it has any, are in a folder of their own.

    DeepSpeed empties its folder whenever it makes a swapper, and it makes one for each model: in one folder the second
    model type would remove the weights of the first.

    Args:
        ds_config: The user's DeepSpeed JSON, checked. Not changed.
        name: The model type's.
    """
    zero = ds_config["zero_optimization"]
    offload = zero.get("offload_param") or {}
    if offload.get("device") != "nvme":
        return ds_config
    offload = {**offload, "nvme_path": str(Path(offload["nvme_path"]) / name)}
    return {**ds_config, "zero_optimization": {**zero, "offload_param": offload}}


def partition(modules: Iterable[nn.Module], ds_config: dict[str, Any], dtype: torch.dtype, group: ShardGroup) -> None:
    """Replace parameters by this rank's shards of them, module after module. Every rank of the group must call this.

    Args:
        modules: Whole when their turn comes, with the values that count on the group's first rank.
        ds_config: As for `shard`.
        dtype: As for `shard`.
        group: From `form_shard_group`.
    """
    config, before = owned_config(ds_config, dtype), None
    for module in modules:
        before = deepspeed.zero.Init(
            module=module,
            data_parallel_group=group.process_group,
            config_dict_or_path=config,
            dtype=dtype,
            mpu=group,
            param_swapper=None if before is None else before.param_swapper,
            zero_param_parallel_group=None if before is None else before.zero_param_process_group,
        )


def shard_bytes(module: nn.Module) -> int:
    """Return the bytes of a sharded module's parameters that this rank holds, wherever it offloads them."""
    return sum(parameter.ds_tensor.ds_numel * parameter.element_size() for parameter in module.parameters())


def shards(module: nn.Module) -> list[Tensor]:
    """Return this rank's shards of a sharded module's parameters, where they are now: host, GPU, or nowhere (NVMe)."""
    return [parameter.ds_tensor for parameter in module.parameters()]


def gathered_bytes(module: nn.Module) -> int:
    """Return the bytes of parameters that are whole now, beside their shards: between passes, the persistent ones."""
    return sum(
        parameter.numel() * parameter.element_size()
        for parameter in module.parameters()
        if parameter.ds_status == ZeroParamStatus.AVAILABLE
        and parameter.untyped_storage().data_ptr() != parameter.ds_tensor.untyped_storage().data_ptr()
    )


def swap_folders(modules: Iterable[nn.Module]) -> set[Path]:
    """Return where DeepSpeed keeps this rank's shards on NVMe; none if it does not."""
    return {Path(swapper.swap_folder) for swapper in _swappers(modules)}


def swap_buffers(modules: Iterable[nn.Module]) -> list[Tensor]:
    """Return the host memory through which shards go to NVMe and back."""
    return [swapper.buffers for swapper in _swappers(modules)]


def _swappers(modules: Iterable[nn.Module]) -> list[AsyncPartitionedParameterSwapper]:
    found = [getattr(parameter, "nvme_swapper", None) for module in modules for parameter in module.parameters()]
    return list({id(swapper): swapper for swapper in found if swapper is not None}.values())


def gathered(parameter: nn.Parameter) -> Tensor:
    """Return a whole copy of a partitioned parameter on the CPU. Every rank of the group must call this."""
    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().cpu().clone()
