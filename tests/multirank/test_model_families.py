"""Checkpoints of every family, read into ZeRO-3 shards: losses are those of transformers."""

from __future__ import annotations

from pathlib import Path

import torch

CASE = Path(__file__).parent / "cases" / "families.py"


def test_sharded_models_are_those_of_transformers(run_mpi, load_file, tmp_path):
    case = load_file(CASE)
    torch.save({name: case.write_family(name, tmp_path / name) for name in case.FAMILIES}, tmp_path / "expected.pt")
    environment = {"DS_ACCELERATOR": "cpu"}
    result = run_mpi([CASE, tmp_path], num_ranks=2, limit_seconds=120, environment=environment)
    assert result.returncode == 0, result.output
    assert result.output.count("compared on 2 ranks") == 2
