"""Who is there when: stretches of a day, windows of a trace, and how long a server looks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from heterotune.config.availability_options import AvailabilityOptions
from heterotune.config.cohort_options import CohortConfig
from heterotune.errors import ConfigError
from heterotune.fleet.availability import Always, Diurnal, looks, make_availability
from heterotune.fleet.clients import make_population
from heterotune.fleet.cohort_selection import CohortSelection

DAY = 86_400.0
ALL = np.arange(2000)


def diurnal(**options: object) -> Diurnal:
    made = make_availability(AvailabilityOptions(model="diurnal", **options), len(ALL), run_seed=3)
    assert isinstance(made, Diurnal)
    return made


def test_by_default_everybody_is_there_for_ever():
    made = make_availability(AvailabilityOptions(), 5, run_seed=0)
    assert made == Always()
    assert made.at(ALL[:3], 1e9).all() and np.isinf(made.until(ALL[:3], 1e9)).all()


def test_a_client_is_there_for_its_share_of_every_day():
    made = diurnal(share=0.25)
    there = np.array([made.at(ALL, seconds) for seconds in np.arange(96) * DAY / 96 + 1.0])
    assert there.mean(axis=0).min() == there.mean(axis=0).max() == 0.25
    assert (made.at(ALL, 5000.0) == made.at(ALL, 5000.0 + 3 * DAY)).all()


def test_starts_are_spread_over_their_part_of_the_day():
    made = diurnal(share=0.25, start_spread=0.5)
    counts = [made.at(ALL, hour * 3600.0).sum() for hour in range(24)]
    assert counts[20] == 0 and counts[9] > 900  # all began before noon and stay for six hours
    assert (made.starts >= 0.0).all() and (made.starts < DAY / 2).all()
    together = diurnal(share=0.25, start_spread=0.0)
    assert together.at(ALL, 0.0).all() and not together.at(ALL, 0.25 * DAY).any()


def test_clients_of_a_zone_ahead_begin_earlier():
    made = diurnal(share=0.25, start_spread=0.0, time_zones=(0.0, 8.0))
    home, ahead = made.at(ALL, 3600.0), made.at(ALL, 3600.0 + DAY - 8 * 3600.0)
    assert (home != ahead).all() and 0.4 < home.mean() < 0.6


def test_the_end_of_a_stretch_is_known():
    made = diurnal(share=0.25)
    there = ALL[made.at(ALL, 20_000.0)]
    ends = made.until(there, 20_000.0)
    assert (ends > 20_000.0).all() and (ends <= 20_000.0 + DAY / 4).all()
    for client, end in zip(there[:20], ends[:20], strict=True):
        assert made.at(np.array([client]), end - 1e-3).all() and not made.at(np.array([client]), end + 1e-3).any()


@pytest.fixture
def trace(tmp_path):
    def write(text: str, name: str = "trace.csv", **options: object):
        (tmp_path / name).write_text(text, errors="surrogateescape")
        chosen = AvailabilityOptions(model="trace", trace=tmp_path / name, **options)
        return make_availability(chosen, 6, run_seed=1)

    return write


CLIENTS = "client,start_seconds,end_seconds\n4,10,20\n0,0,30\n4,50,60\n4,18,25\n4,11,13\n5,90,110\n"


def test_clients_are_there_in_their_windows(trace):
    made = trace(CLIENTS, period_seconds=100.0)
    ids = np.array([0, 4, 5, 1])
    at = {seconds: made.at(ids, seconds).tolist() for seconds in (0.0, 10.0, 24.9, 25.0, 55.0, 95.0, 210.0)}
    assert at == {
        0.0: [True, False, True, False],  # 5 came at 90 and stays until 110
        10.0: [True, True, False, False],
        24.9: [True, True, False, False],  # windows that overlap are one
        25.0: [True, False, False, False],
        55.0: [False, True, False, False],
        95.0: [False, False, True, False],
        210.0: [True, True, False, False],
    }
    assert made.until(ids[[1, 2]], 395.0)[1] == 410.0
    assert made.until(ids[:2], 212.0).tolist() == [230.0, 225.0]


def test_json_lines_and_a_window_of_all_the_time(trace):
    lines = [{"client": 3, "start_seconds": 0, "end_seconds": 40}, {"client": 1, "start_seconds": 5, "end_seconds": 6}]
    made = trace("\n".join(map(json.dumps, lines)) + "\n\n", "trace.jsonl")
    assert made.period_seconds == 40.0
    assert made.at(np.array([3, 1]), 79.0).tolist() == [True, False]
    assert made.until(np.array([3]), 5.0).tolist() == [np.inf]


def test_each_client_draws_a_class(trace):
    made = trace("class,start_seconds,end_seconds\nnight,0,50\nday,50,100\n")
    night, day = made.at(np.arange(6), 10.0), made.at(np.arange(6), 60.0)
    assert (night != day).all() and 0 < night.sum() < 6


@pytest.mark.parametrize(
    ("text", "name", "options", "told"),
    [
        (CLIENTS, "trace.txt", {}, r"trace.txt: no .csv or .jsonl file is there. Correct the path."),
        ("client,start_seconds,end_seconds\n", "t.csv", {}, "no window is in it. Add lines, or set model: always."),
        ("client,start_seconds,end_seconds\n1,9,9\n", "t.csv", {}, "line 2: a window needs one of client and class, "),
        ('{"client": 1, "start_seconds": 1}\n', "t.jsonl", {}, "line 1: a window needs one of client and class"),
        ("\n[]\n", "t.jsonl", {}, "line 2: a window needs"),
        ("{\n", "t.jsonl", {}, "line 1: a window needs"),
        ("client,start_seconds,end_seconds\n6,1,2\n", "t.csv", {}, "client 6 is not in this fleet. Name ids from 0 to"),
        (
            '{"client": 1, "start_seconds": 1, "end_seconds": 2}\n{"class": "a", "start_seconds": 1, "end_seconds": 2}',
            "t.jsonl",
            {},
            "line 2: names a class after lines with a client. Use one of the two.",
        ),
        ("client,start_seconds,end_seconds\n\udcff,1,2\n", "t.csv", {}, "not text in UTF-8 .* Correct it."),
        (CLIENTS, "t.csv", {"period_seconds": 50.0}, "client 4: the window 50 to 60 does not fit into .* = 50. Raise"),
    ],
)
def test_what_is_no_trace_is_refused(trace, text, name, options, told):
    with pytest.raises(ConfigError, match=told):
        trace(text, name, **options)


def test_a_server_looks_now_and_through_one_period():
    options = AvailabilityOptions(model="diurnal", check_seconds=3600.0)
    seen = list(looks(diurnal(), options, 5000.0))
    assert seen == [5000.0, *(3600.0 * hour for hour in range(2, 26))]
    assert list(looks(Always(), AvailabilityOptions(), 5000.0)) == [5000.0]
    for seconds in (0.0, 1.0, 5 * DAY - 1.0, 1e9 * DAY):
        assert len(list(looks(diurnal(), AvailabilityOptions(model="diurnal"), seconds))) == 97


@pytest.mark.parametrize("check_seconds", ["auto", 900.0, 35_000.0, 50_000.5, DAY, 200_000.0])
def test_every_round_looks_at_the_times_of_the_day_of_round_one(check_seconds):
    options = AvailabilityOptions(model="diurnal", check_seconds=check_seconds)
    of_round_one = {seconds % DAY for seconds in looks(diurnal(), options, 0.0)}
    for begun in (1.0, 40_000.25, DAY - 0.5, 16 * DAY, 21.25 * DAY):
        later = list(looks(diurnal(), options, begun))[1:]
        assert later == sorted(later) and begun < later[0] and later[-1] <= begun + DAY
        assert {seconds % DAY for seconds in later} == of_round_one


@pytest.mark.parametrize(
    "given",
    [
        {"model": "diurnal", "share": 0.1, "start_spread": 0.0, "check_seconds": 35_000.0},
        {"model": "trace", "check_seconds": 300.0, "round_seconds": 60.0},
    ],
)
def test_where_round_one_finds_its_clients_every_round_does(given, tmp_path):
    """35,000 s do not divide a day, nor 300 s the 1,000 of a trace."""
    if given["model"] == "trace":
        (tmp_path / "trace.csv").write_text("class,start_seconds,end_seconds\nday,0,50\nday,999,1000\n")
        given = {**given, "trace": tmp_path / "trace.csv"}
    cohort = CohortConfig(clients=3)
    selection = CohortSelection(make_population([8], [3] * 8), cohort, AvailabilityOptions(**given), run_seed=1)
    for number in range(1, 60):
        assert len(selection.draw(number)) == 3
