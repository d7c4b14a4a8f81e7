"""Following a job: through the queue, through requeues, to its exit code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from heterotune.errors import LaunchError
from heterotune.launching.follow import (
    MAX_SILENT_POLLS,
    MAX_UNREACHABLE_POLLS,
    POLL_SECONDS,
    describe,
    follow,
    read_exit_code,
)
from heterotune.launching.slurm_cluster import JobState
from heterotune.launching.submit import Submission
from heterotune.run_folder import RunFolder

WAITING, RUNNING = JobState("PENDING", "Resources"), JobState("RUNNING", "None")


@pytest.fixture
def submission(tmp_path: Path) -> Submission:
    for seed in (1, 2):
        (tmp_path / f"seed-{seed}").mkdir()
    folders = tuple(RunFolder.open(tmp_path / f"seed-{seed}") for seed in (1, 2))
    return Submission("7", tmp_path / "job.sbatch", folders, f"{tmp_path}/seed-*/logs/slurm-7_*.out")


def follow_through(submission: Submission, polls: list[list[JobState]]) -> tuple[int, list[str], list[float]]:
    answers: Iterator[list[JobState]] = iter(polls)
    read: Callable[[str], list[JobState]] = lambda job: next(answers)  # noqa: E731
    said: list[str] = []
    slept: list[float] = []
    code = follow(submission, on_change=said.append, read_states=read, sleep=slept.append)
    assert next(answers, None) is None, "it did not look as often as expected"
    return code, said, slept


def test_a_job_is_followed_through_a_requeue_to_its_end(submission: Submission) -> None:
    polls = [[WAITING], [RUNNING], [RUNNING], [JobState("COMPLETING")], [WAITING], [RUNNING], [JobState("COMPLETED")]]
    code, said, slept = follow_through(submission, polls)
    assert code == 0
    assert said == ["PENDING (Resources)", "RUNNING", "COMPLETING", "PENDING (Resources)", "RUNNING", "COMPLETED"]
    assert slept == [POLL_SECONDS] * 6


def test_of_an_array_the_worst_task_counts_and_all_are_waited_for(submission: Submission) -> None:
    done, failed = JobState("COMPLETED"), JobState("FAILED", "NonZeroExitCode", 2)
    code, said, _ = follow_through(submission, [[failed, RUNNING], [failed, done]])
    assert code == 2
    assert said == ["1 FAILED, 1 RUNNING", "1 COMPLETED, 1 FAILED"]
    assert describe([done, done]) == "2 COMPLETED"


def test_a_task_that_slurm_forgot_before_the_last_one_ended_counts(submission: Submission) -> None:
    (submission.folders[0].path / "exit-code").write_text("3\n")
    code, _, _ = follow_through(submission, [[RUNNING], [JobState("COMPLETED")]])
    assert code == 3


def test_a_job_that_slurm_forgot_has_the_exit_code_it_left(submission: Submission) -> None:
    (submission.folders[0].path / "exit-code").write_text("0\n")
    (submission.folders[1].path / "exit-code").write_text("75\n")
    code, said, _ = follow_through(submission, [[RUNNING], []])
    assert code == 75 and said == ["RUNNING"]


def test_a_job_that_nobody_knows(submission: Submission) -> None:
    (submission.folders[0].path / "exit-code").write_text("0\n")
    with pytest.raises(LaunchError, match="Slurm does not know job 7 any more, and it left no exit code.*go on with"):
        follow_through(submission, [[RUNNING], *[[]] * (MAX_SILENT_POLLS + 1)])


def test_a_slurm_that_is_down_for_a_while_is_waited_for(submission: Submission) -> None:
    answers = iter([[RUNNING], None, None, [JobState("COMPLETED")]])

    def read(job: str) -> list[JobState]:
        if (states := next(answers)) is None:
            raise LaunchError("scontrol did not answer")
        return states

    slept: list[float] = []
    assert follow(submission, on_change=lambda words: None, read_states=read, sleep=slept.append) == 0
    assert len(slept) == 3


def test_a_slurm_that_stays_down(submission: Submission) -> None:
    def read(job: str) -> list[JobState]:
        raise LaunchError("scontrol did not answer")

    slept: list[float] = []
    with pytest.raises(LaunchError, match="scontrol did not answer"):
        follow(submission, on_change=lambda words: None, read_states=read, sleep=slept.append)
    assert len(slept) == MAX_UNREACHABLE_POLLS


def test_exit_code_files(tmp_path: Path) -> None:
    folder = RunFolder.open(tmp_path)
    assert read_exit_code(folder) is None
    (tmp_path / "exit-code").write_text("")
    assert read_exit_code(folder) is None
    (tmp_path / "exit-code").write_text("3\n")
    assert read_exit_code(folder) == 3
