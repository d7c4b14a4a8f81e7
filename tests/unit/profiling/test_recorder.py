"""Peaks belong to their round and phase, and say what they consist of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from heterotune.profiling.components import ALLOCATOR, BUFFERS, DATA, RUNTIME
from heterotune.profiling.process_memory import ProcessMemory
from heterotune.profiling.recorder import MemoryRecorder

BLOCK_BYTES = 64 * 2**20


def resident(recorder: MemoryRecorder) -> list[dict]:
    return [record for record in recorder.drain() if record["kind"] == "host_resident"]


def test_each_phase_of_each_round_has_its_own_peak(resident_block) -> None:
    recorder = MemoryRecorder(mpi_rank=3)
    with recorder.phase("quiet", 1):
        pass
    with recorder.phase("train", 1), resident_block(BLOCK_BYTES):
        pass
    with recorder.phase("quiet", 1):
        pass
    with recorder.phase("quiet", 2):
        pass
    records = resident(recorder)
    assert [(record["round"], record["phase"]) for record in records] == [(1, "quiet"), (1, "train"), (2, "quiet")]
    assert records[1]["peak_bytes"] - records[0]["peak_bytes"] > BLOCK_BYTES // 2
    assert {record["mpi_rank"] for record in records} == {3}
    assert recorder.drain() == []


def test_a_phase_that_raises_is_recorded_and_the_next_one_works() -> None:
    recorder = MemoryRecorder(0)
    with pytest.raises(KeyError), recorder.phase("train", making=BUFFERS):
        raise KeyError
    with recorder.phase("gather", making=BUFFERS):
        pass
    assert [record["phase"] for record in resident(recorder)] == ["train", "gather"]


def test_phases_do_not_nest() -> None:
    recorder = MemoryRecorder(0)
    with pytest.raises(AssertionError, match="phase inner inside phase outer"), recorder.phase("outer"):
        with recorder.phase("inner"):
            pass


def test_components_explain_the_peak() -> None:
    recorder = MemoryRecorder(0)
    rows = torch.ones(BLOCK_BYTES, dtype=torch.uint8)
    recorder.holdings.follow(DATA, rows)
    for round_number in (1, 2):
        with recorder.phase("train", round_number, making=BUFFERS):
            torch.ones(2 * BLOCK_BYTES, dtype=torch.uint8).sum()
    for record in resident(recorder):  # the second round's tensors are known from the first
        components = record["components"]
        assert components[DATA] == BLOCK_BYTES and components[BUFFERS] >= 2 * BLOCK_BYTES
        unexplained = record["peak_bytes"] - sum(components.values())
        assert abs(unexplained) < 0.05 * record["peak_bytes"]


def test_what_freed_tensors_leave_in_the_heap_is_the_allocators() -> None:
    recorder = MemoryRecorder(0, ProcessMemory(resident_bytes=1))  # all that is free now is the allocator's
    with recorder.phase("encode"):
        blocks = [np.ones(50_000, dtype=np.uint8) for _ in range(400)]
        del blocks[::2]
    (record,) = resident(recorder)
    assert record["components"][ALLOCATOR] > 150 * 50_000
    assert len(blocks) == 200


def test_code_that_is_paged_in_later_is_runtime_and_mapped_weights_are_not() -> None:
    recorder = MemoryRecorder(0, ProcessMemory(resident_bytes=1000))
    with recorder.phase("load"):
        pass
    paged_in = resident(recorder)[0]["components"][RUNTIME] - 1000
    assert paged_in > 2**20
    recorder.maps_backbones(lambda: paged_in // 2)
    with recorder.phase("load"):
        pass
    assert resident(recorder)[0]["components"][RUNTIME] - 1000 < 0.6 * paged_in


def test_only_the_first_pass_is_tracked() -> None:
    recorder = MemoryRecorder(0)
    with recorder.phase("train", 1, making=BUFFERS, shape=(0, 2)):
        kept = []
        for size in recorder.first_pass([1000, 5000]):
            recorder.now_making(DATA)
            kept.append(torch.zeros(size, dtype=torch.uint8))
    (record,) = resident(recorder)
    assert record["components"][DATA] == 1000


def test_files_of_the_swapper_are_a_kind_of_their_own() -> None:
    recorder = MemoryRecorder(0)
    recorder.nvme_bytes = lambda: 77
    with recorder.phase("train", 1):
        pass
    (record,) = [record for record in recorder.drain() if record["kind"] == "nvme"]
    assert record == {"round": 1, "mpi_rank": 0, "phase": "train", "kind": "nvme", "peak_bytes": 77}
