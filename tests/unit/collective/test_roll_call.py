from __future__ import annotations

import importlib.metadata
import os
from dataclasses import replace

import numpy
import pytest

from heterotune import __version__
from heterotune.collective import roll_call
from heterotune.collective.roll_call import NODE_VARIABLE, RankFacts, call_roll, check_same_versions, own_facts
from heterotune.collective.single import SingleChannel
from heterotune.errors import LaunchError

VERSIONS = {"heterotune": "0.2", "torch": "2.13.0", "numpy": "2.1"}


def facts(host: str, **versions: str) -> RankFacts:
    return RankFacts(host, host, 0, (0, 1), {**VERSIONS, **versions})


def test_a_rank_says_what_it_runs_and_where():
    mine = own_facts({}, 3)
    assert mine.versions["heterotune"] == __version__ and mine.versions["numpy"] == numpy.__version__
    assert mine.node == mine.host and mine.local_rank == 3
    assert set(mine.cores) == os.sched_getaffinity(0)
    assert own_facts({NODE_VARIABLE: "n7"}, 0) == replace(mine, node="n7", local_rank=0)


def test_what_is_not_installed_is_told(monkeypatch):
    def version(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(roll_call, "version", version)
    assert roll_call.compared_versions()["mpi4py"] == "not installed"


def test_everybody_hears_what_was_said():
    mine = own_facts({}, 0)
    assert call_roll(SingleChannel(), mine) == (mine,)


def test_equal_versions_are_fine_on_any_hosts():
    check_same_versions([facts("n1"), facts("n2")])


def test_the_host_that_differs_is_named_with_its_ranks():
    roll = [facts("n1"), facts("n2", numpy="1.26"), facts("n1"), facts("n1"), facts("n2", numpy="1.26")]
    with pytest.raises(LaunchError, match=r"versions: n2 has numpy 1.26 instead of 2.1 \(MPI ranks 1, 4\)\. .*Install"):
        check_same_versions(roll)


def test_most_ranks_are_right_even_if_the_root_is_not():
    roll = [facts("n1", torch="2.0", numpy="1.26"), facts("n2"), facts("n3")]
    expected = r"versions: n1 has torch 2.0 instead of 2.13.0, numpy 1.26 instead of 2.1 \(MPI rank 0\)\. "
    with pytest.raises(LaunchError, match=expected):
        check_same_versions(roll)


def test_every_kind_of_difference_is_told():
    lacking = replace(facts("n3"), versions={"heterotune": "0.2", "torch": "2.13.0"})
    roll = [facts("n1"), facts("n1"), facts("n2", torch="2.0"), lacking]
    with pytest.raises(LaunchError, match="n2 has torch 2.0 .*; n3 has numpy not installed instead of 2.1"):
        check_same_versions(roll)
