"""What the journal keeps of evaluations: for the next checkpoint, for the summary, and for jobs that go on."""

from __future__ import annotations

import json

import pytest

from heterotune.collective.single import SingleChannel
from heterotune.evaluation.measures import Measure
from heterotune.journal import Journal
from heterotune.run_folder import RunFolder


class Sink:
    """Keeps what a viewer would be shown."""

    def __init__(self) -> None:
        self.entries, self.seen = [], 0

    def add(self, entries) -> None:
        self.entries += list(entries)

    def flush(self) -> None:
        self.seen = len(self.entries)

    def close(self) -> None:
        self.entries = []


@pytest.fixture
def make_journal(tmp_path):
    return lambda: Journal(RunFolder.open(tmp_path), SingleChannel(), ["a", "b"], "heterotune", rounds=3)


def of_type(loss: float) -> dict[str, list[Measure]]:
    return {name: [Measure("loss", "eval", loss + i), Measure("accuracy", "eval", 0.5)] for i, name in enumerate("ab")}


def test_a_job_that_goes_on_knows_all_evaluations_so_far(make_journal) -> None:
    journal = make_journal()
    journal.evaluation(0, of_type(3.0))
    journal.evaluation(2, of_type(2.0))
    assert (journal.losses_of(2), journal.losses_of(1)) == ([2.0, 3.0], [])
    state = json.loads(json.dumps(journal.state()))
    journal.evaluation(3, of_type(1.0))
    later = make_journal()
    later.restore(state)
    assert later.losses == {"a": [(0, 3.0), (2, 2.0)], "b": [(0, 4.0), (2, 3.0)]}
    assert later.scores["b"]["accuracy/eval"] == [(0, 0.5), (2, 0.5)]
    rounds = [json.loads(line)["round"] for line in (later.folder / "metrics.jsonl").read_text().splitlines()]
    assert set(rounds) == {0, 2}


def test_a_checkpoint_of_a_version_that_knew_only_losses_can_be_gone_on_from(make_journal) -> None:
    journal = make_journal()
    journal.restore({"losses": {"a": [[0, 3.0]], "b": [[0, 4.0]]}})
    assert journal.losses_of(0) == [3.0, 4.0]


def test_who_looks_on_sees_an_evaluation_at_once_and_a_round_at_its_end(make_journal, monkeypatch) -> None:
    journal = make_journal()
    journal.scalars = sink = Sink()
    journal.evaluation(0, of_type(3.0))
    assert sink.seen == len(sink.entries) > 0
    written = [json.loads(line) for line in (journal.folder / "metrics.jsonl").read_text().splitlines()]
    assert sink.entries == written
    for direction, num_bytes in (("up", 5), ("down", 7), ("up", 6)):
        journal.ledger.add(
            round_number=1, client_id=0, model_type="a", direction=direction, group=str(num_bytes), num_bytes=num_bytes
        )
    records = [(0, "load", 900), (1, "train", 500), (1, "gather", 600), (1, "encode", 400)]
    monkeypatch.setattr(
        journal.memory,
        "drain",
        lambda: [
            {"round": number, "mpi_rank": 0, "phase": phase, "kind": "host_resident", "peak_bytes": peak}
            for number, phase, peak in records
        ],
    )
    journal.end_round(1, 0.5, [1.0, 1.0])
    assert sink.seen == len(sink.entries)
    found = {entry["name"]: entry["value"] for entry in sink.entries if entry["round"] == 1}
    assert (found["bytes/up"], found["bytes/down"], found["seconds/round"]) == (11, 7, 0.5)
    assert found["peak_bytes/host_resident"] == 600, "what came before the round is not its own"
