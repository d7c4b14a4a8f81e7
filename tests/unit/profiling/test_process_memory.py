"""What the system says of this process, checked against memory that the test takes."""

from __future__ import annotations

import mmap

import numpy as np
import torch

from heterotune.profiling import process_memory
from heterotune.profiling.process_memory import (
    free_heap_bytes,
    locked_bytes,
    pss_bytes,
    read_process_memory,
    resident_part,
)

PAGE = mmap.PAGESIZE


def test_resident_and_file_pages_are_within_one_another() -> None:
    found = read_process_memory()
    assert 0 < found.file_bytes < found.resident_bytes
    assert found.free_heap_bytes < found.resident_bytes
    assert 0 < pss_bytes() <= found.resident_bytes * 1.1


def test_freed_blocks_that_the_allocator_keeps_are_free_heap() -> None:
    blocks = [np.ones(50_000, dtype=np.uint8) for _ in range(400)]
    before = free_heap_bytes()
    del blocks[::2]  # their neighbours keep the heap from shrinking
    assert free_heap_bytes() - before > 150 * 50_000
    assert len(blocks) == 200


def test_of_a_mapped_file_only_touched_pages_are_resident(tmp_path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(64 * PAGE))
    weights = torch.from_file(str(path), shared=False, size=64 * PAGE, dtype=torch.uint8)
    untouched = resident_part(weights.data_ptr(), weights.nbytes)
    weights.sum()
    assert untouched < 64 * PAGE == resident_part(weights.data_ptr(), weights.nbytes)


def test_where_the_kernel_tells_nothing_only_the_resident_size_is_known(monkeypatch, tmp_path) -> None:
    for name in ("_STATUS", "_ROLLUP", "_PAGEMAP"):
        monkeypatch.setattr(process_memory, name, tmp_path / "missing")
    found = read_process_memory()
    assert found.resident_bytes > 0 and found.file_bytes == found.free_heap_bytes == 0
    assert pss_bytes() is None and locked_bytes() == 0
    assert resident_part(PAGE, 12345) == 12345


def test_another_c_library_keeps_nothing_that_is_known(monkeypatch) -> None:
    monkeypatch.setattr(process_memory, "_mallinfo2", lambda: None)
    assert free_heap_bytes() == 0
