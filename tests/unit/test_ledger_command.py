"""`heterotune ledger`: sums of a small run written out by hand, crashed runs, damaged files."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heterotune.cli import app
from heterotune.config.load import parse_run
from heterotune.run_folder import RunFolder

CONFIG = {
    "name": "tiny",
    "rounds": 2,
    "fleet": [{"name": "a", "model": "embedded:small", "clients": 3}],
    "data": {"source": "embedded:stdlib"},
    "compare_with": ["fedavg_lora"],
}
TRAFFIC = [
    {"round": 0, "mpi_rank": 0, "what": "broadcast", "calls": 1, "sent_bytes": 8, "received_bytes": 0, "seconds": 1},
    {"round": 1, "mpi_rank": 0, "what": "broadcast", "calls": 2, "sent_bytes": 80, "received_bytes": 0, "seconds": 0.5},
    {"round": 1, "mpi_rank": 1, "what": "broadcast", "calls": 2, "sent_bytes": 0, "received_bytes": 80, "seconds": 0.5},
    {"round": 1, "mpi_rank": 1, "what": "gather", "calls": 1, "sent_bytes": 5, "received_bytes": 0, "seconds": 0.25},
]


def entry(round_number: int, client: int, model_type: str, direction: str, group: str, num_bytes: int) -> dict:
    return {
        "round": round_number,
        "client": client,
        "model_type": model_type,
        "direction": direction,
        "group": group,
        "bytes": num_bytes,
    }


LEDGER = [
    entry(1, 0, "a", "down", "head", 10),
    entry(1, 0, "a", "up", "head", 20),
    entry(1, 1, "b", "up", "lora", 300),
    entry(2, 0, "a", "up", "head", 20),
    entry(2, 0, "a", "up", "lora", 60),
]


def fill(folder: RunFolder, strategy: str) -> None:
    """Write a run of two rounds."""
    folder.append_ledger(LEDGER)
    folder.append_traffic(TRAFFIC + [TRAFFIC[1] | {"round": 2}])
    types = {"a": {"full_model_bytes": 1000}, "b": {"full_model_bytes": 50_000}}
    folder.write_summary({"strategy": strategy, "model_types": types})


@pytest.fixture
def run_dir(tmp_path) -> Path:
    folder = RunFolder.create(parse_run(CONFIG), tmp_path, "tiny")
    fill(folder, "heterotune")
    fill(folder.subfolder("compare").subfolder("fedavg_lora"), "fedavg_lora")
    return folder.path


def ledger(*arguments: object):
    return CliRunner().invoke(app, ["ledger", *(str(argument) for argument in arguments)])


def rows(run_dir: Path, *options: str) -> list[dict]:
    done = ledger(run_dir, "--json", *options)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["rows"]


def test_by_type_and_direction_with_shares_of_the_full_model(run_dir):
    found = [row for row in rows(run_dir) if row["strategy"] == "heterotune"]
    names = ("type", "direction", "messages", "client_rounds", "bytes", "full_model_bytes")
    assert [tuple(row[name] for name in names) for row in found] == [
        ("a", "down", 1, 1, 10, 1000),
        ("a", "up", 3, 2, 100, 2000),
        ("b", "up", 1, 1, 300, 50_000),
    ]
    assert [row["share_of_full_model"] for row in found] == [0.01, 0.05, 0.006]
    assert [row["bytes_per_client_round"] for row in found] == [10, 50, 300]


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("round", [(1, 330), (2, 80)]),
        ("client", [(0, 110), (1, 300)]),
        ("group", [("head", 50), ("lora", 360)]),
        ("direction,round", [("down", 1, 10), ("up", 1, 320), ("up", 2, 80)]),
        (" type, group ", [("a", "head", 50), ("a", "lora", 60), ("b", "lora", 300)]),
        ("", [(410,)]),
    ],
)
def test_any_way(run_dir, by, expected):
    names = [name.strip() for name in by.split(",") if name.strip()]
    for strategy in ("heterotune", "fedavg_lora"):
        found = [row for row in rows(run_dir, "--by", by) if row["strategy"] == strategy]
        assert [tuple(row[name] for name in (*names, "bytes")) for row in found] == expected


def test_the_traffic_is_summed_apart(run_dir):
    found = [row for row in rows(run_dir, "--traffic", "--by", "what,mpi_rank") if row["strategy"] == "heterotune"]
    numbers = ("calls", "sent_bytes", "received_bytes", "seconds")
    assert [(row["what"], row["mpi_rank"], *(row[name] for name in numbers)) for row in found] == [
        ("broadcast", 0, 5, 168, 0, 2.0),
        ("broadcast", 1, 2, 0, 80, 0.5),
        ("gather", 1, 1, 5, 0, 0.25),
    ]
    assert [row["sent_bytes"] for row in rows(run_dir, "--traffic")] == [168, 5, 168, 5]


def test_the_table_and_the_csv_say_the_same(run_dir):
    table = ledger(run_dir).stdout
    assert "bytes that clients would send (up) and get (down), measured" in table
    assert "5 %" in table and "fedavg_lora" in table and "410 B" in table
    traffic = ledger(run_dir, "--traffic").stdout
    assert "no part of the federation" in traffic and "173 B" in traffic
    lines = list(csv.DictReader(io.StringIO(ledger(run_dir, "--csv").stdout)))
    assert [(line["strategy"], line["bytes"]) for line in lines[:3]] == [
        ("heterotune", "10"),
        ("heterotune", "100"),
        ("heterotune", "300"),
    ]


def test_a_crashed_run_shows_what_is_there_and_says_what_is_missing(run_dir):
    (run_dir / "summary.json").unlink()
    (run_dir / "compare" / "fedavg_lora" / "ledger.jsonl").unlink()
    text = (run_dir / "ledger.jsonl").read_text().splitlines(keepends=True)
    (run_dir / "ledger.jsonl").write_text("".join(text[:3]) + text[3][:20])
    done = ledger(run_dir)
    assert done.exit_code == 0
    assert "330 B" in done.stdout
    for told in (
        "heterotune: there is no summary.json, so nothing is compared with the full model.",
        "heterotune: ledger.jsonl: line 4 is cut off and was left out; the run was ended while it wrote.",
        "heterotune: ledger.jsonl ends with round 1 of 2: the run has not come further.",
        "fedavg_lora: there is no ledger.jsonl: no round of it has ended.",
    ):
        assert told in done.stdout
    found = json.loads(ledger(run_dir, "--json").stdout)
    assert len(found["missing"]) == 4 and all(row["share_of_full_model"] is None for row in found["rows"])
    assert ledger(run_dir, "--csv").stderr.count("\n") == 4


def test_a_run_without_any_record(run_dir):
    for name in ("ledger.jsonl", "compare/fedavg_lora/ledger.jsonl"):
        (run_dir / name).unlink()
    for option in ("--json", "--csv", "--by="):
        done = ledger(run_dir, option)
        assert done.exit_code == 0 and "there is no ledger.jsonl" in done.output


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{]", "line 2: Expecting property name"),
        ("[1]", "line 2: it is no JSON object."),
        (json.dumps({"round": 1}), "line 2: no 'client'."),
        (json.dumps(entry(1, 0, "a", "up", "g", -1)), "line 2: bytes is -1, not a whole number of at least 0."),
        (json.dumps(entry(1, True, "a", "up", "g", 1)), "line 2: client is True, not a whole number"),
        (json.dumps(entry(1, 0, "a", "sideways", "g", 1)), "line 2: direction is 'sideways', not up or down."),
        (json.dumps(entry(1, 0, None, "up", "g", 1)), "line 2: model_type is None, not a word."),
        (json.dumps(entry(0, 0, "a", "up", "g", 1)), "line 2: round 0 comes after round 1."),
        ("[" * 100_000, "line 2: maximum recursion depth exceeded"),
        ("\x00" * (1 << 20), "line 2: "),
    ],
)
def test_a_damaged_line_is_named(run_dir, line, told):
    first = json.dumps(LEDGER[0])
    (run_dir / "ledger.jsonl").write_text(f"{first}\n{line}\n{first}\n")
    done = ledger(run_dir)
    assert done.exit_code == 1
    assert f"ledger.jsonl, {told}" in done.stderr and "damaged from there on" in done.stderr


@pytest.mark.parametrize("seconds", ["null", "true", "NaN", "-1"])
def test_a_damaged_line_of_the_traffic_is_named(run_dir, seconds):
    text = json.dumps(TRAFFIC[0]).replace('"seconds": 1', f'"seconds": {seconds}')
    (run_dir / "traffic.jsonl").write_text(text + "\n")
    done = ledger(run_dir, "--traffic")
    assert done.exit_code == 1 and "traffic.jsonl, line 1: seconds is " in done.stderr


@pytest.mark.parametrize("summary", ["{", "[]", '{"model_types": {"a": {}}}'])
def test_a_damaged_summary(run_dir, summary):
    (run_dir / "summary.json").write_text(summary)
    done = ledger(run_dir)
    assert done.exit_code == 1 and "summary.json is damaged" in done.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--by", "directoin"), "--by directoin: there is no such field. Did you mean direction?"),
        (("--by", "round,round"), "--by round is named twice. Name it once."),
        (("--traffic", "--by", "client"), "--by client: there is no such field. There is: mpi_rank, round, what."),
        (("--json", "--csv"), "--json and --csv exclude each other. Choose one."),
    ],
)
def test_what_is_asked_wrongly(run_dir, options, told):
    done = ledger(run_dir, *options)
    assert done.exit_code == 2 and told in done.stderr


def test_a_folder_of_no_run(tmp_path):
    assert ledger(tmp_path / "none").exit_code == 2
    done = ledger(tmp_path)
    assert done.exit_code == 2 and "has no config.yaml: it is no run folder" in done.stderr


def test_a_strategy_that_sends_nothing_is_said_to(run_dir):
    (run_dir / "ledger.jsonl").write_text("")
    done = ledger(run_dir)
    assert done.exit_code == 0 and "heterotune: ledger.jsonl is empty: this strategy sends nothing" in done.stdout
    (run_dir / "compare" / "fedavg_lora" / "ledger.jsonl").write_text("")
    lines = ledger(run_dir).stdout.splitlines()
    heading = next(line for line in lines if "direction" in line)
    assert "type" in heading and sum(" all " in line for line in lines) == 2
