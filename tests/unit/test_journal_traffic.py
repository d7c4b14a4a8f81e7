"""traffic.jsonl: what ranks moved, round by round, whatever counted it."""

from __future__ import annotations

import json

import pytest

from heterotune.collective.ledger_sums import LedgerSum
from heterotune.collective.single import SingleChannel
from heterotune.collective.traffic import Traffic
from heterotune.journal import Journal
from heterotune.run_folder import RunFolder


class QuietTraffic(Traffic):
    """Counts only what a test adds, not what the channel adds by itself."""

    def add(self, verb: str, **numbers: float) -> None:
        """Count nothing."""

    add_by_hand = Traffic.add


class QuietChannel(SingleChannel):
    """One rank whose own verbs count nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.traffic = QuietTraffic()


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder.open(tmp_path)


def journal(folder: RunFolder, channel: SingleChannel) -> Journal:
    return Journal(folder, channel, ["small"], "heterotune", rounds=2)


def end_round(noted: Journal, round_number: int, num_bytes: int) -> None:
    noted.begin_round(round_number)
    noted.channel.traffic.add_by_hand("sum_to_root", sent_bytes=num_bytes, received_bytes=0, seconds=0.5)
    noted.channel.traffic.add_by_hand("zero3_gather", sent_bytes=1, received_bytes=3, seconds=0.25)
    noted.channel.traffic.add_by_hand("zero3_gather", sent_bytes=1, received_bytes=3, seconds=0.25)
    noted.ledger.add(
        round_number=round_number, client_id=3, model_type="small", direction="up", group="g", num_bytes=num_bytes
    )
    noted.end_round(round_number, 1.0, [1.0])


def rows(folder: RunFolder) -> list[tuple]:
    lines = [json.loads(line) for line in (folder.path / "traffic.jsonl").read_text().splitlines()]
    assert all(line["mpi_rank"] == 0 and line["seconds"] > 0 for line in lines)
    wanted = ("round", "what", "calls", "sent_bytes", "received_bytes")
    return [tuple(line[name] for name in wanted) for line in lines]


def test_traffic_is_written_by_round_and_goes_on_after_a_resume(folder):
    noted = journal(folder, QuietChannel())
    noted.restore({})
    noted.channel.traffic.add_by_hand("broadcast", sent_bytes=9, received_bytes=0, seconds=0.1)
    end_round(noted, 1, 100)
    saved = json.loads(json.dumps(noted.state()))
    end_round(noted, 2, 777)  # lost with its job
    first = [
        (0, "broadcast", 1, 9, 0),
        (1, "sum_to_root", 1, 100, 0),
        (1, "zero3_gather", 2, 2, 6),
    ]
    assert [row for row in rows(folder) if row[0] < 2] == first
    resumed = journal(folder, QuietChannel())
    resumed.restore(saved)
    resumed.channel.traffic.add_by_hand("broadcast", sent_bytes=4, received_bytes=0, seconds=0.1)  # begins in round 2
    end_round(resumed, 2, 200)
    second = [(2, "broadcast", 1, 4, 0), (2, "sum_to_root", 1, 200, 0), (2, "zero3_gather", 2, 2, 6)]
    assert rows(folder) == first + second
    assert resumed.ledger_sums.of("small", "up") == LedgerSum(2, 2, 300, 0)


def test_the_two_records_never_meet(folder):
    noted = journal(folder, QuietChannel())
    noted.restore({})
    end_round(noted, 1, 100)
    ledger = [json.loads(line) for line in (folder.path / "ledger.jsonl").read_text().splitlines()]
    assert [entry["bytes"] for entry in ledger] == [100]
    assert noted.ledger_sums.of("small", "up").num_bytes == 100
