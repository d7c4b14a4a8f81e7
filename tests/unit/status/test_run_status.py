"""What `heterotune status` reads and shows, while a run works and after."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from heterotune.run_lock import this_process
from heterotune.status.round_records import TAIL_BYTES, read_round_records, seconds_left
from heterotune.status.run_status import read_status

LOSSES = ((0, 3.5), (1, 3.25), (2, 3.0))


@pytest.fixture
def at_work(folder, working):
    """A run of three rounds in its third, by this very process."""
    for round_number, loss in LOSSES:
        entries = [{"round": round_number, "name": "loss/eval", "model_type": "small", "value": loss}]
        seconds = (
            [{"round": round_number, "name": "seconds/round", "value": 20.0 + round_number}] if round_number else []
        )
        folder.append_metrics([*entries, *seconds])
    folder.status({"state": "running", "strategy": "heterotune", "round": 3, "rounds": 3, "phase": "train"})
    (folder.path / "lock").write_text(json.dumps(working))
    folder.write_presence(0, {"mpi_rank": 0, **working})
    folder.write_presence(1, {"mpi_rank": 1, **working, "host": "node7"})
    checkpoint = folder.path / "checkpoints" / "round-000002"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_bytes(b"x" * 1000)
    return folder


def files(folder) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.path.rglob("*") if path.is_file()
    }


def test_a_run_at_work(at_work) -> None:
    before = files(at_work)
    status = read_status(at_work.path)
    assert (status.state, status.round, status.rounds, status.rounds_done) == ("running", 3, 3, 2)
    assert (status.phase, status.loss, status.loss_before) == ("train", {"small": 3.0}, {"small": (0, 3.5)})
    assert status.seconds_per_round == 21.5
    assert status.seconds_left == 21.5 * (1 + 3)  # this round, and three of the comparison
    assert [(rank.host == "node7", rank.alive) for rank in status.ranks] == [(False, True), (True, None)]
    assert status.checkpoint == {".": 2} and status.checkpoint_age_seconds is not None
    assert status.disk_bytes == sum(len(content) for _, content in before.values())
    assert files(at_work) == before  # never disturbs


def test_a_line_that_is_being_written_is_left_out(at_work) -> None:
    with (at_work.path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 3, "name": "loss/eval", "model_ty')
    assert read_status(at_work.path).loss == {"small": 3.0}


def test_only_the_end_of_a_long_record_is_read(folder) -> None:
    filler = [{"round": 1, "name": "loss/client", "client": 0, "value": 1.0, "padding": "x" * 1000}]
    folder.append_metrics([{"round": 0, "name": "loss/eval", "model_type": "small", "value": 9.0}])
    folder.append_metrics(filler * (TAIL_BYTES // 1000))
    folder.append_metrics([{"round": 1, "name": "loss/eval", "model_type": "small", "value": 3.0}])
    assert read_round_records(folder.path).earlier_losses == {"small": (1, 3.0)}


def test_a_damaged_line_does_not_hide_the_others(folder) -> None:
    (folder.path / "metrics.jsonl").write_text(
        'not json\n[1]\n{"round": 2, "name": "seconds/round", "value": 4.0, "unit": "s"}\n'
    )
    records = read_round_records(folder.path)
    assert (records.rounds_done, records.seconds_per_round) == (2, 4.0)


@pytest.mark.parametrize(
    ("current", "rounds_done", "seconds_per_round", "left"),
    [("b", 3, 2.0, 14.0), ("a", 0, 2.0, 40.0), ("b", 12, 2.0, 0.0), ("b", 0, None, None), ("c", 0, 2.0, None)],
)
def test_the_time_left(current, rounds_done, seconds_per_round, left) -> None:
    assert seconds_left(["a", "b"], current, 10, rounds_done, seconds_per_round) == left


def test_the_comparison_at_work(at_work) -> None:
    at_work.status({"state": "running", "strategy": "fedavg_lora", "round": 1, "rounds": 3, "loss": {"small": 2.5}})
    status = read_status(at_work.path)
    assert (status.rounds_done, status.loss, status.seconds_left) == (0, {"small": 2.5}, None)


def test_the_command_shows_it(at_work, heterotune) -> None:
    shown = heterotune("status", at_work.path).stdout
    for part in ("running", "3 of 3 (heterotune, 1 of 2 methods, train)", "small 3.000 (round 0: 3.500)"):
        assert part in shown
    for part in ("21.5 s a round, about 1 min 26 s left", "1 of 1 alive on", "1 on node7 (another host)", "round 2, "):
        assert part in shown
    assert json.loads(heterotune("status", at_work.path, "--json").stdout)["rounds_done"] == 2


def test_of_a_finished_run_it_says_where_the_ranks_were(at_work, heterotune, summary, working) -> None:
    (at_work.path / "lock").unlink()
    at_work.write_summary(summary)
    at_work.status({"state": "done", "strategy": "fedavg_lora", "round": 3, "rounds": 3})
    shown = heterotune("status", at_work.path).stdout
    assert f"1 on {working['host']}, 1 on node7" in shown and "last sign" not in shown and " left" not in shown


def test_following_ends_with_the_run(at_work, heterotune, monkeypatch, summary) -> None:
    def finish(seconds: float) -> None:
        (at_work.path / "lock").unlink()
        at_work.write_summary(summary)
        at_work.status({"state": "done", "strategy": "heterotune", "round": 3, "rounds": 3})

    monkeypatch.setattr("heterotune.commands.status.time.sleep", finish)
    done = heterotune("status", at_work.path, "--follow")
    assert done.exit_code == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["running", "finished"]


@pytest.mark.parametrize(("failure", "code"), [(None, 75), ("ValueError: x", 1)])
def test_following_tells_how_it_ended(at_work, heterotune, failure, code) -> None:
    (at_work.path / "lock").unlink()
    if failure:
        at_work.record_failure(0, failure)
    assert heterotune("status", at_work.path, "-f", "--json").exit_code == code


def test_ctrl_c_leaves_the_run_alone(at_work, heterotune, monkeypatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("heterotune.commands.status.time.sleep", interrupt)
    done = heterotune("status", at_work.path, "--follow")
    assert done.exit_code == 130 and "No longer watched; the run goes on." in done.stderr


def test_the_runs_of_an_array(at_work, tmp_path: Path, heterotune) -> None:
    (tmp_path / "array").mkdir()
    for seed in (10, 2):
        at_work.path.parent.joinpath(at_work.path.name).rename(tmp_path / "array" / f"seed-{seed}")
        if seed == 10:
            subprocess.run(["cp", "-r", tmp_path / "array/seed-10", at_work.path], check=True, timeout=60)
    done = heterotune("status", tmp_path / "array")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["seed-2", "seed-10"]
    assert len(json.loads(heterotune("status", tmp_path / "array", "--json").stdout)) == 2
    refused = heterotune("status", tmp_path / "array", "--follow")
    assert refused.exit_code == 2 and "holds 2 runs. Follow one of them, e.g." in refused.stderr


def test_what_is_no_run_folder(tmp_path: Path, folder, heterotune) -> None:
    done = heterotune("status", tmp_path)
    assert done.exit_code == 2 and "has no config.yaml: it is no run folder. Name one that is." in done.stderr
    folder.config_path.write_bytes(b"\xff")
    done = heterotune("status", folder.path)
    assert done.exit_code == 2 and "cannot be read ('utf-8' codec" in done.stderr


def test_a_new_attempt_forgets_the_ranks_of_the_last(at_work) -> None:
    at_work.begin_attempt(resume=True)
    assert read_status(at_work.path).ranks == ()


def test_a_process_is_told_from_another_with_its_number() -> None:
    from heterotune.run_lock import is_alive

    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = psutil.Process(other.pid).create_time()
    mine = {**this_process({}), "pid": other.pid, "process_started": started}
    assert is_alive(mine) is True and is_alive({**mine, "process_started": started - 5}) is False
    other.communicate(timeout=60)
    assert is_alive(mine) is False and is_alive({}) is is_alive({"host": mine["host"]}) is None
