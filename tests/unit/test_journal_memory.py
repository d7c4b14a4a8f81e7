"""What the journal writes of memory: estimates beside peaks, PSS by node, spans, the end of the last round."""

from __future__ import annotations

import json

import pytest

from heterotune import journal as journal_module
from heterotune.collective.single import SingleChannel
from heterotune.journal import Journal
from heterotune.round_notes import node_peaks
from heterotune.run_folder import RunFolder


@pytest.fixture
def journal(tmp_path) -> Journal:
    return Journal(RunFolder.open(tmp_path), SingleChannel(), ["small"], "heterotune", rounds=1)


def written(journal: Journal) -> list[dict]:
    return list(journal.run_folder.read_memory())


def test_estimates_stand_beside_the_peaks_that_they_are_of(journal) -> None:
    journal.expect([{("train", "host_resident"): 123, ("train", "nvme"): 5}])
    with journal.phase("train", 1):
        pass
    with journal.phase("gather"):
        pass
    journal.end_round(1, 1.0, [1.0])
    estimates = {record["phase"]: record.get("estimate_bytes") for record in written(journal)}
    assert estimates == {"train": 123, "gather": None, "round": None}


def test_a_phase_belongs_to_the_round_in_which_it_was(journal) -> None:
    with journal.phase("load"):
        pass
    journal.write_memory()
    assert [(record["round"], record["phase"]) for record in written(journal)] == [(0, "load")]
    with journal.phase("train", 1):
        pass
    journal.end_round(1, 1.0, [1.0])
    with journal.phase("checkpoint"):
        pass
    journal.finish()
    assert [(record["round"], record["phase"]) for record in written(journal)][1:] == [
        (1, "train"),
        (1, "round"),
        (1, "checkpoint"),
    ]


def test_pss_is_added_up_by_node_and_left_out_where_it_is_not_known() -> None:
    records = node_peaks(4, [("n1", 10), ("n2", 5), ("n1", 30), ("n3", None), ("n3", 7)])
    found = [(record["mpi_rank"], record["kind"], record["peak_bytes"], record["round"]) for record in records]
    assert found == [(0, "node_pss", 40, 4), (1, "node_pss", 5, 4)]


def test_spans_of_the_newest_round_are_kept(journal) -> None:
    for round_number in (1, 2):
        with journal.phase("train", round_number, facts={"clients": [round_number]}), journal.idle():
            journal.channel.traffic.add("broadcast", sent_bytes=1, received_bytes=1, seconds=0.5)
        journal.end_round(round_number, 1.0, [1.0])
    spans = json.loads((journal.folder / "spans.json").read_text())
    assert spans["round"] == 2
    named = {span["name"]: span for span in spans["ranks"][0]}
    assert set(named) >= {"broadcast", "idle", "train"}
    assert named["train"]["facts"] == {"clients": [2]} and named["broadcast"]["duration_us"] == 500_000


def test_leaks_are_told_at_the_end(journal, caplog, monkeypatch) -> None:
    lines = [
        {"round": number, "mpi_rank": 5, "phase": "train", "kind": "host_resident", "peak_bytes": number * 10 * 2**20}
        for number in range(1, 12)
    ]
    journal.run_folder.append_memory(lines)
    monkeypatch.setattr(journal_module.LOG, "propagate", True)
    with caplog.at_level("WARNING"):
        journal.finish()
    assert "MPI rank 5 in phase train grows by 10.0 MiB a round" in caplog.text
