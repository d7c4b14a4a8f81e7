from __future__ import annotations

import json

import pytest

from heterotune.chunk_tuning import Cache, Trial, candidates, fastest
from heterotune.collective.single import SingleChannel


@pytest.mark.parametrize(
    ("num_in_cohort", "num_ranks", "limit", "expected"),
    [
        (1, 1, 32, [1]),
        (6, 2, 32, [1, 2, 3]),
        (100, 1, 8, [1, 2, 4, 8]),
        (5, 4, 32, [1, 2]),
        (16, 2, 4, [1, 2, 4]),
    ],
)
def test_sizes_to_try(num_in_cohort, num_ranks, limit, expected):
    assert candidates(num_in_cohort, num_ranks, limit) == expected


def test_sublinear_passes_favour_large_chunks():
    trials = [Trial(1, 1.0), Trial(2, 1.1), Trial(4, 1.2), Trial(8, 1.4)]
    assert fastest(trials, num_in_cohort=8, num_ranks=1) == 8


def test_no_rank_is_left_without_a_chunk():
    trials = [Trial(1, 1.0), Trial(2, 1.1), Trial(4, 1.2), Trial(8, 1.4)]
    assert fastest(trials, num_in_cohort=8, num_ranks=2) == 4


@pytest.mark.parametrize("seconds", [2.0, 1.95, 2.3])
def test_a_larger_chunk_that_gains_nothing_is_not_taken(seconds):
    assert fastest([Trial(1, 1.0), Trial(2, seconds)], num_in_cohort=8, num_ranks=1) == 1


def test_what_was_picked_is_known_the_next_time(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = Cache(SingleChannel())
    assert cache.read("key") == 0
    cache.write("key", 4)
    cache.write("other", 2)
    assert (Cache(SingleChannel()).read("key"), cache.read("other")) == (4, 2)


@pytest.mark.parametrize("content", ["{", "[]", '{"key": "4"}', '{"key": -1}'])
def test_a_cache_that_is_not_ours_is_not_believed(tmp_path, monkeypatch, content):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "heterotune" / "chunk_clients.json"
    path.parent.mkdir()
    path.write_text(content)
    cache = Cache(SingleChannel())
    assert cache.read("key") == 0
    cache.write("key", 3)
    assert json.loads(path.read_text()) == {"key": 3}


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    Cache(SingleChannel()).write("key", 3)
