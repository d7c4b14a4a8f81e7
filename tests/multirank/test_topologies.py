"""Root and sharded aggregation come to the same bits, on every channel and number of ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from heterotune.collective.channel import MAX_PIECE_BYTES
from heterotune.collective.single import SingleChannel

CASE = Path(__file__).parent / "cases" / "topologies.py"
ODD_PIECES = 100_000
"""Bytes: no slice of the case fits into one piece."""


@pytest.fixture
def expected(load_file):
    """What the root topology comes to in one process, by the codec of the way down."""
    case = load_file(CASE)
    results = {codec: case.run_rounds(SingleChannel(), "root", codec) for codec in case.CODECS}
    for result in results.values():
        logged = [entry for entries in result["metrics"] for entry in entries]
        conflicts = [entry["value"] for entry in logged if entry["name"] == "cmga/conflicts"]
        assert 0 < sum(conflicts) and 0 in conflicts, "the case must have groups with and without a conflict"
        assert len(set(result["digests"])) == len(result["digests"])
    assert results["fp32"]["digests"][-1] != results["int8"]["digests"][-1]
    return results


def test_one_rank_alone_can_be_sharded(expected, load_file):
    case = load_file(CASE)
    assert {codec: case.run_rounds(SingleChannel(), "sharded", codec) for codec in case.CODECS} == expected


@pytest.mark.parametrize(
    ("kind", "num_ranks", "piece_bytes"),
    [("mpi", 2, MAX_PIECE_BYTES), ("mpi", 3, ODD_PIECES), ("mpi", 4, MAX_PIECE_BYTES), ("torch", 3, ODD_PIECES)],
)
def test_all_topologies_come_to_the_same_bits(run_mpi, run_torch, expected, tmp_path, kind, num_ranks, piece_bytes):
    run_job = {"mpi": run_mpi, "torch": run_torch}[kind]
    result = run_job([CASE, kind, str(piece_bytes), tmp_path / "result"], num_ranks=num_ranks)
    assert result.returncode == 0, result.output
    for mpi_rank in range(num_ranks):
        got = json.loads((tmp_path / f"result.{mpi_rank}").read_text())
        assert got == {codec: {"root": one, "sharded": one} for codec, one in expected.items()}
