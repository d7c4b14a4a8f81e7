from __future__ import annotations

import os
from pathlib import Path

import pytest

from heterotune.collective.roll_call import RankFacts
from heterotune.collective.single import SingleChannel
from heterotune.launching.placement import (
    CpuTopology,
    divide_cores,
    gpu_index,
    local_ranks,
    parse_cores,
    place,
    read_topology,
    settle,
    spell_cores,
)

FLAT = CpuTopology({}, {})
TWO_NUMA_NODES = CpuTopology({cpu: cpu // 4 for cpu in range(8)}, {})


def roll_of(*hosts: str, cores: tuple[int, ...] = (0, 1, 2, 3), local_rank: int = 0) -> list[RankFacts]:
    return [RankFacts(host, host, local_rank, cores, {}) for host in hosts]


def placed(roll, mpi_rank=0, *, bind="always", num_threads=1, environ=(), topology=FLAT):
    return place(roll, mpi_rank, bind=bind, num_threads=num_threads, environ=dict(environ), topology=topology)


def test_the_launchers_local_ranks_are_kept():
    roll = [RankFacts(host, host, local, (0,), {}) for host, local in (("a", 1), ("b", 0), ("a", 0))]
    assert local_ranks(roll) == (1, 0, 0)


def test_local_ranks_are_counted_where_the_launcher_does_not_say():
    assert local_ranks(roll_of("a", "b", "a", "a", "b")) == (0, 0, 1, 2, 1)


@pytest.mark.parametrize(("local_rank", "num_gpus", "index"), [(0, 4, 0), (3, 4, 3), (3, 1, 0), (5, 4, 1), (2, 0, 2)])
def test_a_rank_that_sees_one_gpu_takes_it(local_rank, num_gpus, index):
    assert gpu_index(local_rank, num_gpus) == index


@pytest.mark.parametrize(
    ("cores", "num_ranks", "topology", "parts"),
    [
        ((0, 1, 2, 3), 2, FLAT, ((0, 1), (2, 3))),
        ((1, 3, 5), 2, FLAT, ((1,), (3, 5))),
        ((4, 6), 2, FLAT, ((4,), (6,))),
        (range(8), 2, TWO_NUMA_NODES, ((0, 1, 2, 3), (4, 5, 6, 7))),
        (range(8), 1, TWO_NUMA_NODES, (tuple(range(8)),)),
        # A part of 3, 2 and 3 would cross the nodes.
        (range(8), 3, TWO_NUMA_NODES, ((0, 1, 2, 3), (4, 5), (6, 7))),
        # Two ranks do not fit into the one core that is left of the first node.
        ((3, 4, 5, 6, 7), 4, TWO_NUMA_NODES, ((3,), (4,), (5,), (6, 7))),
        # Nodes whose cores are numbered in turns.
        (range(4), 2, CpuTopology({0: 0, 1: 1, 2: 0, 3: 1}, {}), ((0, 2), (1, 3))),
        # Two hardware threads a core, numbered as Linux does: a rank gets whole cores.
        (range(4), 2, CpuTopology({}, {0: (0, 0), 1: (0, 1), 2: (0, 0), 3: (0, 1)}), ((0, 2), (1, 3))),
    ],
)
def test_cores_are_divided(cores, num_ranks, topology, parts):
    assert divide_cores(cores, num_ranks, topology) == parts


def test_ranks_of_a_host_get_its_cores_and_no_others():
    roll = roll_of("a", "b", "a", "b")
    assert [placed(roll, mpi_rank).cores for mpi_rank in range(4)] == [(0, 1), (0, 1), (2, 3), (2, 3)]
    assert str(placed(roll, 2)) == "rank 1 of 2 on this host, cores 2-3: its share of 4 cores"


def test_what_the_launcher_bound_stays():
    roll = [RankFacts("a", "a", number, (number,), {}) for number in range(2)]
    for bind in ("auto", "always", "never"):
        assert placed(roll, 1, bind=bind).cores == (1,)
    assert "as the launcher bound it" in str(placed(roll, 1))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"bind": "never"}, "bind_cores is never"),
        ({"bind": "auto"}, "no batch job, so others may use the same cores"),
        ({"num_threads": 3}, "4 cores are too few for 2 ranks of 3 threads"),
    ],
)
def test_when_ranks_are_not_bound(changed, reason):
    placement = placed(roll_of("a", "a"), 1, **changed)
    assert placement.cores == () and placement.local_rank == 1
    assert str(placement) == f"rank 1 of 2 on this host, not bound to cores: {reason}"


def test_more_ranks_than_cores_are_not_bound():
    placement = placed(roll_of("a", "a", "a", cores=(0, 1)), 2)
    assert placement.cores == () and "2 cores are too few for 3 ranks of 1 threads" in placement.reason


@pytest.mark.parametrize("variable", ["SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"])
def test_in_a_batch_job_ranks_are_bound_unless_told_otherwise(variable):
    assert placed(roll_of("a", "a"), 1, bind="auto", environ={variable: "17"}).cores == (2, 3)
    assert placed(roll_of("a", "a"), 1, bind="never", environ={variable: "17"}).cores == ()


def test_the_topology_is_read_from_the_kernels_files(tmp_path: Path):
    for node, cpus in ((0, "0,2\n"), (1, "1,3\n")):
        (tmp_path / f"node/node{node}").mkdir(parents=True)
        (tmp_path / f"node/node{node}/cpulist").write_text(cpus)
    (tmp_path / "node/possible").write_text("0-1\n")
    for cpu, (package, core) in enumerate([(0, 0), (1, 0), (0, 1)]):
        folder = tmp_path / f"cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "core_id").write_text(f"{core}\n")
        (folder / "physical_package_id").write_text(f"{package}\n")
    assert read_topology(tmp_path) == CpuTopology({0: 0, 2: 0, 1: 1, 3: 1}, {0: (0, 0), 1: (1, 0), 2: (0, 1)})


def test_a_machine_that_says_nothing_is_flat(tmp_path: Path):
    assert read_topology(tmp_path) == FLAT


@pytest.mark.parametrize(
    ("text", "cores"), [("0-3,8", (0, 1, 2, 3, 8)), ("5\n", (5,)), ("\n", ()), ("0-1,4-5", (0, 1, 4, 5))]
)
def test_core_lists_are_read_and_written(text, cores):
    assert parse_cores(text) == cores
    assert spell_cores(cores) == text.strip()


def test_settling_keeps_the_process_to_its_cores(monkeypatch):
    kept = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: kept.append((pid, tuple(cores))))
    placement = settle(SingleChannel(), 5, bind="always", num_threads=1)
    assert (placement.local_rank, placement.num_local_ranks) == (5, 1)
    assert kept == [(0, tuple(sorted(os.sched_getaffinity(0))))]
    settle(SingleChannel(), 0, bind="never", num_threads=1)
    assert len(kept) == 1
