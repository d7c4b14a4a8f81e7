"""A run folder is read whole; what is missing or damaged is said, and the rest is still there."""

from __future__ import annotations

import json

import pytest

from heterotune.errors import LaunchError
from heterotune.report.data_record import read_data
from heterotune.report.run_record import read_run

MIB = 2**20


def test_a_whole_run_with_its_comparison(make_run) -> None:
    run = read_run(make_run())
    assert (run.name, run.state, run.rounds, run.fleet) == ("tiny", "finished", 2, {"a": 3, "b": 2})
    assert [each.name for each in run.strategies] == ["heterotune", "fedavg_lora"]
    assert run.environment == {"heterotune": "0.1.0", "cpus": "2", "num_ranks": "2"}
    assert run.data_digest == "ef" * 32 and [client.kinds for client in run.clients] == [{"x": 9}, {"x": 1, "y": 3}]
    assert run.spans_round == 2 and len(run.spans) == 2
    main = run.strategies[0]
    assert main.loss_curves() == {"a": [(0, 3.0), (1, 2.9), (2, 2.8)], "b": [(0, 4.0), (1, 3.9), (2, 3.8)]}
    assert main.ledger.bytes_per_turn("a", "up") == MIB and main.ledger.bytes_per_turn("b", "down") is None
    assert main.ledger.cumulative("a") == [(1, 3 * MIB), (2, 6 * MIB)]
    assert main.ledger.turns == {"a": {0: 2}, "b": {3: 2}}
    assert (main.full_model_bytes("a"), main.full_model_bytes("c")) == (10 * MIB, None)
    assert (main.seconds_per_round, main.peak_bytes) == (2.0, 310 * MIB)
    assert [text for text in run.all_missing() if "phases" not in text] == []


def test_seconds_per_round_while_there_is_no_summary(make_run) -> None:
    path = make_run()
    (path / "summary.json").unlink()
    assert read_run(path).strategies[0].seconds_per_round == 2.0


@pytest.mark.parametrize(
    "leave, state",
    [
        ({"lock": "{}"}, "running"),
        ({}, "stopped"),
        ({"failure.json": json.dumps({"mpi_rank": 1, "text": "out of\nmemory"})}, "failed"),
    ],
)
def test_the_state_of_a_run_that_has_not_ended(make_run, leave, state) -> None:
    path = make_run()
    (path / "summary.json").unlink()
    for name, text in leave.items():
        (path / name).write_text(text)
    run = read_run(path)
    assert run.state == state
    assert ("memory" in run.failure) == (state == "failed")


@pytest.mark.parametrize(
    "name", ["config.yaml", "metrics.jsonl", "ledger.jsonl", "memory.jsonl", "summary.json", "spans.json", "data.json"]
)
@pytest.mark.parametrize("content", ["", "[", "\x00\xff", '{"ranks": 3, "clients": 7}', "[1]\n"])
def test_each_file_may_be_damaged(make_run, name, content) -> None:
    path = make_run()
    (path / name).write_text(content)
    run = read_run(path)
    assert [each.name for each in run.strategies][1:] == ["fedavg_lora"]
    assert run.strategies[1].loss_curves()["a"][-1] == (2, 2.8)
    if content in ("[", "\x00\xff"):
        assert name in " ".join(run.all_missing())


@pytest.mark.parametrize("name", ["metrics.jsonl", "ledger.jsonl", "memory.jsonl"])
def test_each_file_may_be_missing(make_run, name) -> None:
    path = make_run()
    (path / name).unlink()
    assert name in " ".join(read_run(path).all_missing())


def test_what_comes_before_a_damaged_line_of_the_ledger_counts(make_run) -> None:
    path = make_run()
    lines = (path / "ledger.jsonl").read_text().splitlines(keepends=True)
    (path / "ledger.jsonl").write_text("".join([*lines[:3], "{\n", *lines[3:]]))
    run = read_run(path)
    assert run.strategies[0].ledger.cumulative("a") == [(1, 3 * MIB)]
    assert "line 4" in " ".join(run.all_missing())


def test_what_is_no_run_folder_is_refused(tmp_path) -> None:
    with pytest.raises(LaunchError, match="is no run folder: it has no config.yaml"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "content, message",
    [
        ([], "it has no list of clients"),
        ({"clients": [3]}, "a client is no JSON object"),
        ({"clients": [{"client": 1, "train_rows": -2}]}, "client 1 has a count that is no whole number"),
        ({"clients": [{"client": 1, "owners": {"x": "many"}}]}, "client 1: owners are not counts of rows"),
    ],
)
def test_data_of_another_form_is_refused(tmp_path, content, message) -> None:
    (tmp_path / "data.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_data(tmp_path / "data.json")


def test_spans_of_another_form_are_left_out(make_run) -> None:
    path = make_run()
    spans = {"round": 1, "ranks": [[{"name": "train", "start_us": -5, "duration_us": 1}]]}
    (path / "spans.json").write_text(json.dumps(spans))
    run = read_run(path)
    assert run.spans == [] and any("a span is" in text for text in run.missing)
