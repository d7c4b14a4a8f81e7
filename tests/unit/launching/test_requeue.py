"""Whether an interrupted job goes back into the queue: yes while it makes progress, no when stuck or cancelled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from heterotune.errors import LaunchError
from heterotune.launching import requeue
from heterotune.launching.requeue import Interruptions, decide, main, read_interruptions
from heterotune.launching.slurm_cluster import JobState

RUNNING = JobState("RUNNING")
OUT_OF_TIME = JobState("COMPLETING", "TimeLimit")


def save(run_dir: Path, round_number: int, folder: str = ".", *, whole: bool = True) -> None:
    path = run_dir / folder / "checkpoints" / f"round-{round_number:06d}"
    path.mkdir(parents=True)
    if whole:
        (path / "manifest.json").touch()


def test_progress_goes_back_every_time() -> None:
    remembered = Interruptions("7")
    for round_number in (3, 4, 9):
        decision = decide(remembered, {".": round_number}, RUNNING)
        assert decision.requeue and f"round {round_number}" in decision.message
        remembered = decision.remembered
    assert remembered == Interruptions("7", {".": 9}, 0)


@pytest.mark.parametrize("saved", [{}, {".": 3}])
@pytest.mark.parametrize("state", [RUNNING, OUT_OF_TIME, None])
def test_the_second_interruption_in_a_row_without_progress_is_the_last(saved: dict, state: JobState | None) -> None:
    first = decide(Interruptions("7", saved), saved, state)
    assert first.requeue and "Nothing new saved" in first.message
    second = decide(first.remembered, saved, state)
    assert not second.requeue
    assert "2 times in a row with nothing new saved" in second.message
    assert "Raise --time or --signal-seconds, or make a round shorter" in second.message


def test_progress_forgives_one_interruption_without_it() -> None:
    stuck = decide(Interruptions("7", {".": 3}), {".": 3}, RUNNING).remembered
    moved = decide(stuck, {".": 4}, RUNNING).remembered
    assert moved.without_progress == 0
    assert decide(moved, {".": 4}, RUNNING).requeue


def test_progress_of_a_comparison_counts() -> None:
    before = Interruptions("7", {".": 10}, 1)
    assert decide(before, {".": 10, "compare/fedavg_lora": 1}, RUNNING).requeue


@pytest.mark.parametrize("state", [JobState("CANCELLED"), JobState("COMPLETING", "None"), JobState("PENDING")])
def test_a_job_that_was_cancelled_or_that_slurm_requeues_is_left_alone(state: JobState) -> None:
    before = Interruptions("7", {".": 3})
    decision = decide(before, {".": 5}, state)
    assert not decision.requeue and decision.remembered == before
    assert state.name in decision.message and "left alone" in decision.message


def test_another_job_in_the_same_folder_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "requeues.json").write_text(json.dumps({"job": "7", "saved": {".": 3}, "without_progress": 2}))
    assert read_interruptions(tmp_path, "7") == Interruptions("7", {".": 3}, 2)
    assert read_interruptions(tmp_path, "8") == Interruptions("8", {".": 3}, 0)


def test_the_command_remembers_from_one_call_to_the_next(tmp_path: Path, monkeypatch, capsys) -> None:
    asked: list[str] = []
    monkeypatch.setattr(requeue, "read_job_states", lambda job: asked.append(job) or [RUNNING])
    save(tmp_path, 2)
    save(tmp_path, 3, whole=False)
    codes = [main([str(tmp_path), "--job", "12"]) for _ in range(3)]
    assert codes == [0, 0, 1] and asked == ["12"] * 3
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "Saved: round 2. Requeued."
    assert said[1] == "Nothing new saved (round 2). Requeued once more."
    save(tmp_path, 4)
    assert main([str(tmp_path), "--job", "12"]) == 0


def test_without_an_answer_of_slurm_the_checkpoints_decide(tmp_path: Path, monkeypatch, capsys) -> None:
    def fail(job: str) -> list[JobState]:
        raise LaunchError("scontrol did not answer")

    for answer in (lambda job: [], fail):
        monkeypatch.setattr(requeue, "read_job_states", answer)
        (tmp_path / "requeues.json").unlink(missing_ok=True)
        assert [main([str(tmp_path), "--job", "12"]) for _ in range(2)] == [0, 1]
    assert "scontrol did not answer" in capsys.readouterr().err
