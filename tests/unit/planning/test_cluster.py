"""What a user says about machines: sizes as people write them, every absurd number told at once."""

from __future__ import annotations

import math

import pytest

from heterotune.errors import ConfigError
from heterotune.planning.cluster import Cluster, describe_cluster
from heterotune.planning.sizes import parse_bytes


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("80GiB", 80 << 30), ("512GB", 512 * 10**9), ("1.5 TiB", 3 << 39), ("64MiB", 1 << 26), ("1000", 1000)],
)
def test_sizes_are_read_as_people_write_them(text, num_bytes) -> None:
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize("text", ["", "80", "many", "80 GIB", "-1GiB", "1.2.3GiB", "80Gb", "GiB", "nan"])
def test_what_is_no_size_is_refused_or_too_small(text) -> None:
    with pytest.raises(ConfigError, match="--host-memory"):
        describe_cluster(host_memory=text)


def test_every_absurd_number_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        describe_cluster(
            nodes=-1,
            ranks_per_node=0,
            gpus_per_node=99,
            gpu_memory="80XB",
            host_memory="9PiB",
            link_gbps=-3.0,
            flops=1.0,
        )
    problems = caught.value.problems
    assert problems[:3] == (
        "--nodes = -1 is not between 1 and 100000. Give what one job can have.",
        "--ranks-per-node = 0 is not between 1 and 1024. Give what one job can have.",
        "--gpus-per-node = 99 is not between 0 and 64. Give what one job can have.",
    )
    assert problems[3] == "--gpu-memory = '80XB' is no size. Write it like 80GiB, 512GB or 1.5TiB."
    assert "--host-memory = 9PiB is not between 64MiB and 1PiB" in problems[4]
    assert "--link-gbps = -3 is not between 0.001 and 100000. Give Gbit/s." in problems[5]
    assert "--flops = 1 is not between 1e+06 and 1e+18. Give FLOP/s of one rank." in problems[6]
    assert len(problems) == 7


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_a_rate_is_a_finite_positive_number(value) -> None:
    with pytest.raises(ConfigError, match="--flops"):
        describe_cluster(flops=value)


def test_memory_of_gpus_that_are_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="--gpu-memory = 80GiB without GPUs. Give --gpus-per-node, or drop it."):
        describe_cluster(gpu_memory="80GiB")


def test_groups_and_shared_gpus() -> None:
    cluster = describe_cluster(nodes=3, ranks_per_node=4, gpus_per_node=2)
    assert [len(cluster.group_of(5, choice, [0] * 12)) for choice in ("world", "node", "rank")] == [12, 4, 1]
    assert (cluster.num_ranks, cluster.ranks_per_gpu, Cluster().ranks_per_gpu) == (12, 2, 0)
