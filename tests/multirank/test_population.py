"""A million clients: a round makes no more of them than a round of a thousand, and its bits do not depend on ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

CASE = Path(__file__).parent / "cases" / "population.py"
MILLION = 1_000_000
COHORT = 8
TINY = "random:hidden_size=16,intermediate_size=32,num_hidden_layers=1,num_attention_heads=2,vocab_size=2048"
RUN = {
    "name": "population",
    "seed": 5,
    "rounds": 2,
    "fleet": [{"name": "tiny", "model": TINY, "clients": 1}],
    "data": {
        "source": "replaced by the fixture",
        "tokenizer": "embedded:small",
        "heldout": "pool",
        "max_tokens": 16,
        "partition": {"by": "drawn", "rows_per_client": 4, "rows_spread": 0.3},
    },
    "cohort": {"clients": COHORT},
    "local": {"steps": 1, "batch_size": 2, "learning_rate": 1e-2},
    "strategy": "scaffold",
    "scaffold": {"adapter_rank": 2, "targets": ["q_proj"]},
    "backbone": {"ds_config": "none"},
    "chunk": {"clients": 3},
    "evaluate": {"max_rows": 4},
}


@pytest.fixture(scope="module")
def results(run_mpi, tmp_path_factory) -> dict[int, dict]:
    """Number of ranks -> number of clients -> what was found."""
    folder = tmp_path_factory.mktemp("population")
    (folder / "corpus.txt").write_text("\n\n".join(f"def f{n}(x):\n    return x * {n}" for n in range(60)))
    run = {**RUN, "data": {**RUN["data"], "source": str(folder / "corpus.txt")}}
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    found = {}
    for num_ranks, fleets in ((1, (1_000, MILLION)), (2, (MILLION,))):
        out = folder / f"ranks-{num_ranks}"
        ended = run_mpi([CASE, folder / "run.yaml", out, *map(str, fleets)], num_ranks=num_ranks, limit_seconds=120)
        assert ended.returncode == 0, ended.output
        found[num_ranks] = json.loads((out / "results.json").read_text())
    return found


def test_a_round_of_a_million_makes_what_a_round_of_a_thousand_makes(results):
    small, large = results[1]["1000"], results[1][str(MILLION)]
    assert small["clients"] == large["clients"] == COHORT
    assert small["rows"] == large["rows"] == COHORT
    assert large["peak_bytes"] < small["peak_bytes"] + 500_000, "a list of a million would be 8,000,000"
    assert large["listed"] == small["listed"] == 1_000


def test_a_million_clients_give_the_same_bits_on_two_ranks(results):
    one, two = results[1][str(MILLION)], results[2][str(MILLION)]
    assert one["digest"] == two["digest"] != results[1]["1000"]["digest"]
    assert one["states"] == two["states"] and len(one["states"]) == 2 * COHORT
