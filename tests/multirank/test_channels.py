"""Every channel against the one-process channel, on 1 to 4 ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from heterotune.collective.channel import MAX_PIECE_BYTES
from heterotune.collective.single import SingleChannel

CASES = Path(__file__).parent / "cases"
SMALL_PIECES = 24
"""Bytes: no verb of the cases fits into one piece, and no power of two divides its buffer."""


@pytest.fixture
def run_job(request, run_mpi, run_torch):
    """Start a case on a channel kind."""
    return {"mpi": run_mpi, "torch": run_torch}[request.param]


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
@pytest.mark.parametrize(("run_job", "kind"), [("mpi", "mpi"), ("torch", "torch")], indirect=["run_job"])
def test_federation_equals_one_process_bit_for_bit(run_job, kind, num_ranks, tmp_path, load_file):
    expected = load_file(CASES / "federation.py").federate(SingleChannel())
    piece_bytes = MAX_PIECE_BYTES if num_ranks % 2 else 1000
    result = run_job([CASES / "federation.py", kind, str(piece_bytes), tmp_path / "result"], num_ranks=num_ranks)
    assert result.returncode == 0, result.output
    for mpi_rank in range(num_ranks):
        got = json.loads((tmp_path / f"result.{mpi_rank}").read_text())
        assert got == expected | {"num_ranks": num_ranks, "name": kind}


@pytest.mark.parametrize(("num_ranks", "piece_bytes"), [(2, MAX_PIECE_BYTES), (3, SMALL_PIECES)])
@pytest.mark.parametrize(("run_job", "kind"), [("mpi", "mpi"), ("torch", "torch")], indirect=["run_job"])
def test_verbs_with_every_root_and_length(run_job, kind, piece_bytes, num_ranks):
    result = run_job([CASES / "verbs.py", kind, str(piece_bytes)], num_ranks=num_ranks)
    assert result.returncode == 0, result.output
    assert result.output.count(f"checked {num_ranks} ranks") == num_ranks


def test_torch_channel_beside_a_process_group_that_already_runs(run_torch):
    result = run_torch([CASES / "verbs.py", "torch-beside", str(MAX_PIECE_BYTES)], num_ranks=2)
    assert result.returncode == 0, result.output
    assert result.output.count("checked 2 ranks") == 2


def test_single_channel_passes_the_same_checks(load_file):
    verbs = load_file(CASES / "verbs.py")
    for check in verbs.CHECKS:
        check(SingleChannel(), 0)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("raise", "the last rank fails on purpose"),
        ("exit", ""),
        ("other-verb", r"rank 0: broadcast(root 0, 64 bytes"),
        ("other-length", r"rank 2: broadcast(root 0, 32 bytes"),
        ("other-slices", r"rank 2: reduce_scatter(root 0, 64 bytes"),
        ("stuck", "was not done after 2 seconds"),
    ],
)
def test_a_rank_in_trouble_ends_an_mpi_job_within_seconds(run_mpi, mode, message):
    result = run_mpi([CASES / "trouble.py", "mpi", mode], num_ranks=3, limit_seconds=45.0)
    assert result.returncode != 0
    assert message in result.output


def test_abort_ends_all_ranks_with_the_exit_code(run_mpi):
    assert run_mpi([CASES / "trouble.py", "mpi", "abort"], num_ranks=3, limit_seconds=45.0).returncode == 7


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("raise", "the last rank fails on purpose"),
        ("exit", ""),
        ("other-verb", r"rank 0: broadcast(root 0, 64 bytes"),
        ("other-length", r"rank 2: broadcast(root 0, 32 bytes"),
        ("other-slices", r"rank 2: reduce_scatter(root 0, 64 bytes"),
        ("stuck", "in _collective"),
    ],
)
def test_a_rank_in_trouble_ends_a_torch_job_within_seconds(run_torch, mode, message):
    result = run_torch([CASES / "trouble.py", "torch", mode], num_ranks=3, limit_seconds=45.0)
    assert result.returncode != 0
    assert message in result.output
