"""A backbone group as torch.distributed and DeepSpeed know it: the process group over which ZeRO-3 shards."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from datetime import timedelta

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.runtime.zero import partitioned_param_coordinator

from heterotune.backbone.groups import RankGroups, spell_ranks
from heterotune.errors import CollectiveError


@dataclass(frozen=True)
class ShardGroup:
    """The ranks that share one ZeRO-3 copy with this one; its methods are what DeepSpeed calls an `mpu`.

    Attributes:
        mpi_ranks: In order, this rank's among them.
        process_group: Theirs alone.
    """

    mpi_ranks: tuple[int, ...]
    process_group: dist.ProcessGroup

    @property
    def is_first(self) -> bool:
        """Whether this rank is the group's first, whose weights the others take."""
        return self.get_data_parallel_rank() == 0

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        """Return the group over which DeepSpeed shards."""
        return self.process_group

    def get_data_parallel_world_size(self) -> int:
        """Return how many ranks share a copy."""
        return len(self.mpi_ranks)

    def get_data_parallel_rank(self) -> int:
        """Return this rank's place among them."""
        return dist.get_rank(self.process_group)

    def get_model_parallel_world_size(self) -> int:
        """Return 1: a layer that runs is whole on every rank."""
        return 1

    def get_model_parallel_rank(self) -> int:
        """Return 0."""
        return 0


def form_shard_group(groups: RankGroups, mpi_rank: int, *, watchdog_seconds: int) -> ShardGroup:
    """Form the process groups of a job's backbone groups and return this rank's. Every rank must call this.

    Args:
        groups: All of them; the same on every rank.
        mpi_rank: This one.
        watchdog_seconds: Longest wait for another rank of the group.
    """
    if len(groups) == 1:
        return whole_job()
    timeout = timedelta(seconds=watchdog_seconds)
    formed = [ShardGroup(mpi_ranks, dist.new_group(list(mpi_ranks), timeout=timeout)) for mpi_ranks in groups]
    mine = next(group for group in formed if mpi_rank in group.mpi_ranks)
    _compare_layers_within(mine)
    return mine


def whole_job() -> ShardGroup:
    """Return the group of all ranks, which torch.distributed has from the start."""
    return ShardGroup(tuple(range(dist.get_world_size())), dist.group.WORLD)


def any_in_group(says: bool, group: ShardGroup) -> bool:
    """Return whether any rank of a group says so. Every rank of the group must call this."""
    answer = torch.tensor([int(says)], device=deepspeed.get_accelerator().current_device_name())
    dist.all_reduce(answer, op=dist.ReduceOp.MAX, group=group.process_group)
    return bool(answer.item())


def check_same_in_group(ints: list[int], group: ShardGroup) -> None:
    """Refuse ranks that ran other layers than their group. Every rank of the group must call this.

    Raises:
        CollectiveError: On every rank of the group alike.
    """
    digest = zlib.crc32(repr(ints).encode())
    extremes = torch.tensor([digest, -digest], device=deepspeed.get_accelerator().current_device_name())
    dist.all_reduce(extremes, op=dist.ReduceOp.MAX, group=group.process_group)
    if extremes[0].item() != -extremes[1].item():
        raise CollectiveError(f"{spell_ranks(group.mpi_ranks)} share a backbone, but ran different layers of it.")


def _compare_layers_within(group: ShardGroup) -> None:
    """Let DeepSpeed compare the order of layers among the group's ranks only.

    It does so over all ranks of the job whenever a pass differs from the one before, but groups make passes of their
    own. What is changed is DeepSpeed's own table, so this lasts as long as the process.
    """
    partitioned_param_coordinator.assert_ints_same_as_other_ranks = lambda ints: check_same_in_group(ints, group)
