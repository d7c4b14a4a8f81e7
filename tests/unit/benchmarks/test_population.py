"""The jobs of tools/benchmarks/population.py are run files that are read, whatever the fleet's size."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from heterotune.config.load import parse_run

PATH = Path(__file__).parents[3] / "tools" / "benchmarks" / "population.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("population_benchmark", PATH)
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before


@pytest.mark.parametrize("state", ["none", "kept"])
def test_its_jobs_can_be_read(benchmark, state):
    for population in benchmark.POPULATIONS:
        run = parse_run(benchmark.run_of(population, benchmark.STRATEGIES[state], rounds=5, cohort=benchmark.COHORT))
        assert (run.num_clients, run.cohort.clients) == (population, 1_000)
    assert run.num_clients == 1_000_000
