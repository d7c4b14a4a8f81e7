"""What the simulator itself moves to gather ZeRO-3's weights, against the size of a known model."""

from __future__ import annotations

import json
from pathlib import Path

CASE = Path(__file__).parent / "cases" / "gather_count.py"
KEEPS_LAYERS = "{}"
FORGETFUL = {"stage3_max_live_parameters": 0, "stage3_max_reuse_distance": 0, "stage3_prefetch_bucket_size": 0}
FORGETS_LAYERS = json.dumps(FORGETFUL)
FREEZES_TWO = json.dumps({**FORGETFUL, "forward_only": 2})


def count(run_mpi, output: Path, *cases: str, num_ranks: int) -> list[list[dict]]:
    """Each rank's counts of the cases."""
    environment = {"DS_ACCELERATOR": "cpu"}
    result = run_mpi([CASE, output, *cases], num_ranks=num_ranks, limit_seconds=120, environment=environment)
    assert result.returncode == 0, result.output
    return [json.loads(Path(f"{output}.{mpi_rank}").read_text()) for mpi_rank in range(num_ranks)]


def test_a_pass_gathers_the_other_ranks_share_of_the_weights(run_mpi, tmp_path):
    cases = (KEEPS_LAYERS, FORGETS_LAYERS, FREEZES_TWO)
    for keeps, forgets, freezes in count(run_mpi, tmp_path / "two", *cases, num_ranks=2):
        moved = keeps["moved"]["zero3_gather"]
        assert moved["sent_bytes"] == moved["received_bytes"] == keeps["weight_bytes"] / 2
        # Larger models are gathered once forward and once backward; the embedding has no backward pass.
        moved = forgets["moved"]["zero3_gather"]
        both_ways = 2 * forgets["weight_bytes"] - forgets["embedding_bytes"]
        assert moved["sent_bytes"] == moved["received_bytes"] == both_ways / 2
        # Layers below the lowest that trains have none either.
        assert freezes["moved"]["zero3_gather"]["received_bytes"] == (both_ways - 2 * forgets["layer_bytes"]) / 2
        assert forgets["weight_bytes"] > 800_000 and moved["num_calls"] > 20 and moved["seconds"] > 0


def test_a_rank_of_its_own_gathers_nothing(run_mpi, tmp_path):
    assert [case["moved"] for case in count(run_mpi, tmp_path / "one", KEEPS_LAYERS, num_ranks=1)[0]] == [{}]
