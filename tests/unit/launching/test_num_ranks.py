"""More ranks than clients of a cohort, or than cores can bear, are refused before anything starts."""

from __future__ import annotations

import pytest

from heterotune.config.clock_options import ClockOptions
from heterotune.config.load import parse_run
from heterotune.config.schema import RunConfig
from heterotune.errors import ConfigError
from heterotune.fleet.clients import make_population, sample_cohort
from heterotune.launching.num_ranks import check_num_ranks, cohort_size


def config(cohort: dict) -> RunConfig:
    fleet = [
        {"name": "small", "model": "embedded:small", "clients": 5},
        {"name": "large", "model": "embedded:large", "clients": 8},
        {"name": "single", "model": "embedded:large", "clients": 1},
    ]
    return parse_run(
        {"name": "t", "rounds": 1, "fleet": fleet, "data": {"source": "embedded:stdlib"}, "cohort": cohort}
    )


@pytest.mark.parametrize("cohort", [{"fraction": 0.5}, {"fraction": 0.1}, {"fraction": 1.0}, {"clients": 7}, {}])
def test_cohort_size_is_what_is_sampled(cohort: dict) -> None:
    run = config(cohort)
    fleet = make_population([entry.clients for entry in run.fleet], [10] * 14)
    assert cohort_size(run.fleet, run.cohort, run.clock) == len(
        sample_cohort(fleet, run.cohort, run_seed=0, round_number=1)
    )


def test_clients_at_work_at_once_are_a_cohort() -> None:
    run = config({})
    assert cohort_size(run.fleet, run.cohort, ClockOptions(mode="buffered", concurrency=6, buffer=2)) == 6


def test_as_many_ranks_as_make_sense() -> None:
    check_num_ranks(config({"clients": 8}), 8, num_cores=2, oversubscribe=False)
    check_num_ranks(config({"clients": 9}), 9, num_cores=2, oversubscribe=True)


@pytest.mark.parametrize(
    ("num_ranks", "message"),
    [
        (0, r"--ranks = 0 is less than 1\. Give at least 1\."),
        (8, r"--ranks = 8 is more than the 7 clients of a round's cohort.* Lower it, or raise cohort"),
        (5, r"--ranks = 5 is more than 4 ranks for each of the 1 cores here\. Lower it, or add --oversubscribe"),
    ],
)
def test_ranks_that_make_no_sense(num_ranks: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_num_ranks(config({"clients": 7}), num_ranks, num_cores=1, oversubscribe=False)


def test_both_rules_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        check_num_ranks(config({"clients": 7}), 99, num_cores=1, oversubscribe=False)
    assert len(caught.value.problems) == 2
