"""Backbone groups: one ZeRO-3 copy per node or per rank gives the bits of one copy for all, from smaller groups."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

CASES = Path(__file__).parent / "cases"
MODEL = "random:hidden_size=16,intermediate_size=24,num_hidden_layers=2,num_attention_heads=2,vocab_size=2048"
RUN = {
    "name": "groups",
    "seed": 5,
    "rounds": 2,
    # Five unequal clients of type a in chunks of one, one of b: the groups never make equally many passes.
    "fleet": [
        {"name": "a", "model": MODEL, "clients": 5},
        {"name": "b", "model": "embedded:small", "clients": 1},
    ],
    "data": {"fields": {"text": "text"}, "partition": {"by": "natural", "key": "owner"}, "max_tokens": 16},
    "local": {"epochs": 1, "batch_size": 2, "learning_rate": 1e-2},
    "heterotune": {"adapter_rank": 2, "head_rank": 4, "head_basis": 8, "align_tokens": 64},
    "chunk": {"clients": 1},
    "evaluate": {"max_rows": 8, "batch_size": 3},
}


@pytest.fixture
def run_group(run_mpi, tmp_path):
    """Run the federation with a backbone group on a number of ranks; returns the run folder."""
    lines = [
        {"owner": f"owner {owner}", "text": f"def f{number}(x):\n    return x * {owner} + {number}\n" * 2}
        for owner, size in enumerate([24, 2, 9, 3, 2, 12])
        for number in range(size)
    ]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def run(group: str, num_ranks: int) -> Path:
        chosen = {"data": {**RUN["data"], "source": str(corpus)}, "backbone": {"group": group}}
        run_file, out = tmp_path / f"{group}.yaml", tmp_path / f"{group}-{num_ranks}"
        run_file.write_text(yaml.safe_dump({**RUN, **chosen}))
        out.mkdir()
        arguments = [CASES / "virtual_nodes.py", run_file, "--run-dir", out]
        result = run_mpi(arguments, num_ranks=num_ranks, limit_seconds=240, environment={"DS_ACCELERATOR": "cpu"})
        assert result.returncode == 0, result.output
        return out

    return run


def digest(run: Path) -> str:
    return json.loads((run / "summary.json").read_text())["global_adapter_sha256"]


def copies(run: Path) -> dict[str, tuple[str, int]]:
    """Model type at each rank -> which ranks share its copy, and the bytes of it that are there."""
    found = {}
    for log in sorted((run / "logs").glob("rank-*.log")):
        for name, shard_bytes, ranks in re.findall(
            r"backbone (\w+): (\d+) bytes here of the copy of (.*)", log.read_text()
        ):
            found[f"{name}{int(log.stem.removeprefix('rank-'))}"] = (ranks, int(shard_bytes))
    return found


@pytest.mark.timeout(900)
def test_node_and_rank_groups_give_the_bits_of_one_process(run_group):
    world, node, rank = run_group("world", 1), run_group("node", 4), run_group("rank", 2)
    assert digest(node) == digest(world) == digest(rank)
    whole_bytes = {name.rstrip("0"): shard_bytes for name, (_, shard_bytes) in copies(world).items()}
    assert whole_bytes["a"] == 4 * (2048 * 16 + 2 * (16 * 16 * 4 + 16 * 24 * 3 + 2 * 16) + 16)
    assert copies(node) == {
        f"{name}{mpi_rank}": ("MPI ranks 0, 1" if mpi_rank < 2 else "MPI ranks 2, 3", whole_bytes[name] // 2)
        for name in ("a", "b")
        for mpi_rank in range(4)
    }
    assert copies(rank) == {
        f"{name}{mpi_rank}": (f"MPI rank {mpi_rank}", whole_bytes[name]) for name in ("a", "b") for mpi_rank in range(2)
    }


def test_a_groups_shards_are_the_checkpoint_split_over_its_ranks(run_mpi, tmp_path):
    environment = {"DS_ACCELERATOR": "cpu"}
    result = run_mpi([CASES / "shard_groups.py", tmp_path], num_ranks=4, limit_seconds=180, environment=environment)
    assert result.returncode == 0, result.output
    assert result.output.count("checked 4 ranks") == 4


def test_hosts_with_other_versions_are_named(run_mpi, tmp_path):
    run_file = tmp_path / "run.yaml"
    run_file.write_text(yaml.safe_dump({**RUN, "data": {"source": "embedded:stdlib"}}))
    result = run_mpi([CASES / "other_versions.py", run_file, "--run-dir", tmp_path], num_ranks=3, limit_seconds=60)
    assert result.returncode == 2
    assert "n17 has deepspeed not installed instead of " in result.output
    assert re.search(r"numpy 1\.0\.1 instead of \S+ \(MPI rank 1\)", result.output)
    assert "Install the same packages on every host" in json.loads((tmp_path / "failure.json").read_text())["text"]
