"""What DeepSpeed is told of a rank's GPU, and that it did what it was asked to; sharding is tested on several ranks."""

from __future__ import annotations

import os
from types import SimpleNamespace

import deepspeed
import pytest
import torch
import torch.distributed as dist
from deepspeed.runtime.zero.parameter_offload import DeepSpeedZeRoOffload
from torch import nn

from heterotune.backbone import shard_group, zero3
from heterotune.backbone.shard_group import ShardGroup
from heterotune.config.deepspeed_json import read_ds_config
from heterotune.errors import LaunchError


@pytest.fixture
def running_job(monkeypatch):
    """torch.distributed as if a launcher had started it with two ranks."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda group=None: 2)
    monkeypatch.setattr(deepspeed, "init_distributed", lambda **options: None)
    monkeypatch.setattr(zero3, "skip_unused_comm_op", lambda: None)
    monkeypatch.setenv("LOCAL_RANK", "5")


def join(num_ranks: int, device_index: int = 0) -> None:
    zero3.join_job(mpi_rank=0, num_ranks=num_ranks, device_index=device_index, store=None, watchdog_seconds=1)


def test_deepspeed_takes_the_gpu_that_the_rank_takes(running_job, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "5")
    join(num_ranks=2, device_index=1)
    assert os.environ["LOCAL_RANK"] == os.environ["OMPI_COMM_WORLD_LOCAL_RANK"] == "1"
    monkeypatch.delenv("OMPI_COMM_WORLD_LOCAL_RANK")
    join(num_ranks=2, device_index=3)
    assert os.environ["LOCAL_RANK"] == "3" and "OMPI_COMM_WORLD_LOCAL_RANK" not in os.environ


def test_a_job_of_another_size_is_refused(running_job):
    with pytest.raises(LaunchError, match="DeepSpeed sees 2 ranks, but this job has 3"):
        join(num_ranks=3)


def shard_with(monkeypatch, *, stage: int, num_sharing: int) -> nn.Module:
    """`shard` with a DeepSpeed that returns an engine of that stage and that many shards."""
    module = nn.Linear(2, 2).requires_grad_(False)
    for parameter in module.parameters():
        parameter.ds_zero_partition_world_size = num_sharing
    offload = DeepSpeedZeRoOffload.__new__(DeepSpeedZeRoOffload)
    engine = SimpleNamespace(optimizer=offload, zero_optimization_stage=lambda: stage, module=module)
    monkeypatch.setattr(deepspeed, "initialize", lambda **options: (engine, None, None, None))
    return zero3.shard(module, {}, torch.float32, ShardGroup((4, 6), None))


def test_a_sharded_module_comes_back(monkeypatch):
    assert isinstance(shard_with(monkeypatch, stage=3, num_sharing=2), nn.Linear)


def test_no_sharding_is_noticed(monkeypatch):
    with pytest.raises(LaunchError, match=r"did not shard the backbone \(stage 0\)"):
        shard_with(monkeypatch, stage=0, num_sharing=2)


def test_shards_over_other_ranks_are_noticed(monkeypatch):
    with pytest.raises(LaunchError, match=r"sharded the backbone over \[4\] ranks, not over MPI ranks 4, 6"):
        shard_with(monkeypatch, stage=3, num_sharing=4)


def test_blocks_are_partitioned_in_turn_with_one_swapper(monkeypatch):
    seen = []

    def init(*, module, param_swapper, zero_param_parallel_group, **options):
        seen.append((module, param_swapper, zero_param_parallel_group))
        number = len(seen)
        return SimpleNamespace(param_swapper=param_swapper or number, zero_param_process_group=None)

    monkeypatch.setattr(deepspeed.zero, "Init", init)

    def blocks():
        for name in ("a", "b", "c"):
            assert len(seen) == "abc".index(name)  # the block before is in shards when this one gets its memory
            yield name

    zero3.partition(blocks(), {}, torch.float32, ShardGroup((0,), None))
    assert seen == [("a", None, None), ("b", 1, None), ("c", 1, None)]


def test_one_group_is_the_whole_job(monkeypatch):
    monkeypatch.setattr(dist, "get_world_size", lambda group=None: 3)
    group = shard_group.form_shard_group(((0, 1, 2),), 1, watchdog_seconds=1)
    assert group.mpi_ranks == (0, 1, 2) and group.process_group is dist.group.WORLD


def test_every_model_type_has_a_swap_folder_of_its_own() -> None:
    on_nvme = read_ds_config("zero3_nvme")
    paths = {
        zero3.with_own_swap_folder(on_nvme, name)["zero_optimization"]["offload_param"]["nvme_path"]
        for name in ("small", "large")
    }
    assert paths == {"/local_nvme/small", "/local_nvme/large"}
    assert on_nvme == read_ds_config("zero3_nvme")
    in_memory = read_ds_config("zero3_cpu")
    assert zero3.with_own_swap_folder(in_memory, "small") == in_memory
