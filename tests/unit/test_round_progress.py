"""Chunks that were finished before a job ended: saved, taken over where they fit, left out where they do not."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from heterotune import progress_record, round_progress
from heterotune.adapters.layout import AdapterLayout, TensorSpec
from heterotune.aggregation.exact import ExactSum
from heterotune.background import Background
from heterotune.client_segments import latest_states
from heterotune.client_store import ClientStore
from heterotune.collective.ledger import LedgerEntry
from heterotune.collective.single import SingleChannel
from heterotune.errors import CheckpointError
from heterotune.fleet.chunks import Chunk
from heterotune.fleet.clients import Client
from heterotune.journal import Journal
from heterotune.launching.progress import saved_rounds, told
from heterotune.progress_record import RoundStart, read_record
from heterotune.round_notes import RoundNotes
from heterotune.round_progress import RoundProgress
from heterotune.run_folder import RunFolder

START = RoundStart(run_seed=5, round_number=4, adapters_sha256="ab" * 32)
NUM_ELEMENTS = [3, 2]
OWN = TensorSpec("own", (1,), "client", "", "dema.client", "0")
LAYOUT = AdapterLayout("a", (OWN,))
CHUNKS = [
    Chunk(place, tuple(Client(number, place, 10) for number in numbers), (2,) * len(numbers))
    for place, numbers in [(0, (0, 1)), (0, (2,)), (1, (5, 6)), (1, (7,))]
]


class Job:
    """One rank of a job that trains the chunks of round 4, each with an update that names its clients."""

    def __init__(self, folder: Path, *, every_seconds: float | None = 0.0) -> None:
        folder.mkdir(exist_ok=True)
        self.seconds = 0.0
        self.journal = Journal(RunFolder.open(folder), SingleChannel(), ["a", "b"], "s", 9)
        self.store = ClientStore(folder / "clients", run_seed=5)
        self.store.begin_round(4)
        self.background = Background("test")
        self.progress = RoundProgress(
            self.journal,
            self.store,
            self.background,
            num_elements=NUM_ELEMENTS,
            every_seconds=every_seconds,
            now_seconds=lambda: self.seconds,
        )
        self.sums = {place: ExactSum(number) for place, number in enumerate(NUM_ELEMENTS)}

    def begin(self, start: RoundStart = START, *, saved_round: int | None = 3, is_saved: bool = True) -> list[Chunk]:
        self.progress.go_on_after(saved_round)
        return self.progress.begin(start.round_number, lambda: start, CHUNKS, is_saved=is_saved)

    def train(self, *chunks: Chunk) -> None:
        for chunk in chunks:
            ids = [client.client_id for client in chunk.clients]
            update_KP = torch.tensor(ids).double().add(0.1)[:, None].expand(-1, NUM_ELEMENTS[chunk.model_type])
            self.sums[chunk.model_type].add(update_KP, torch.full((len(ids),), 0.1, dtype=torch.float64), ids)
            entries = [LedgerEntry(4, number, "up", "g", "ab"[chunk.model_type], 100 + number) for number in ids]
            notes = RoundNotes(
                [(number, chunk.model_type, 10, 0.1 * number, 0.2 * number) for number in ids],
                [],
                type(self.journal.ledger)(entries),
            )
            self.journal.take_over(notes)
            for number in ids:
                self.store.save(number, LAYOUT, torch.tensor([float(number)]))
                if number % 2:
                    self.store.save_residual(number, LAYOUT, torch.tensor([number + 0.5]))
            self.progress.chunk_done(chunk, self.sums)
            self.background.wait()

    def result(self) -> object:
        self.progress.end(self.sums)
        notes = self.journal.round_notes()
        sums = {place: exact.as_array().tolist() for place, exact in self.sums.items()}
        self.store.flush()
        states = {client: state.tolist() for client, state in latest_states(self.store.folder).items()}
        return sums, sorted(notes.losses), list(notes.ledger), states


@pytest.fixture
def whole(tmp_path: Path) -> object:
    """What a job that was never interrupted has."""
    job = Job(tmp_path / "whole")
    assert job.begin(saved_round=None) == CHUNKS
    job.train(*CHUNKS)
    return job.result()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a run that was killed when two ranks had finished the first three chunks."""
    for chunks in (CHUNKS[:2], CHUNKS[2:3]):
        job = Job(tmp_path / "run")
        job.progress.begin(4, lambda: START, CHUNKS, is_saved=True)
        job.train(*chunks)
    return tmp_path / "run"


def records(folder: Path) -> list[Path]:
    return sorted((folder / "progress" / "round-000004").glob("first-*"))


def resumed(folder: Path) -> tuple[list[Chunk], object]:
    """Go on in a folder; returns the chunks that were left and the result."""
    for path in (folder / "clients").iterdir():
        path.unlink()  # the store begins with the checkpoint's files
    job = Job(folder)
    left = job.begin()
    job.train(*left)
    return left, job.result()


def test_what_was_finished_is_taken_over(folder: Path, whole: object) -> None:
    assert len(records(folder)) == 2, "a rank's record replaces its last one"
    assert resumed(folder) == (CHUNKS[3:], whole)


def test_another_interruption_loses_nothing(folder: Path, whole: object) -> None:
    second = Job(folder)
    second.train(*second.begin())
    left, result = resumed(folder)
    assert left == [] and result == whole


def test_a_record_that_replaces_another_may_stand_beside_it(folder: Path, whole: object) -> None:
    name = records(folder)[0]
    content = name.read_bytes()
    assert "chunks-000002" in name.name
    job = Job(folder.parent / "other")
    job.progress.begin(4, lambda: START, CHUNKS, is_saved=True)
    job.train(CHUNKS[0])
    (shorter,) = records(folder.parent / "other")
    shorter.rename(name.parent / shorter.name)
    assert name.read_bytes() == content and len(records(folder)) == 3
    assert resumed(folder) == (CHUNKS[3:], whole)


def flip(folder: Path) -> str:
    path = records(folder)[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return "not what was written"


def truncate(folder: Path) -> str:
    path = records(folder)[0]
    path.write_bytes(path.read_bytes()[:-1])
    return "not what was written"


def misname(folder: Path) -> str:
    path = records(folder)[0]
    path.rename(path.with_name("first-000000-chunks-000002-.safetensors"))
    return "not what was written"


def lose_client(folder: Path) -> str:
    name = "personal-a-000004-r0000p0000.safetensors"
    (folder / "progress" / "round-000004" / "clients" / name).unlink()
    return f"{name} is missing or not what was written"


def rewrite(folder: Path, **changes: np.ndarray) -> None:
    """Change tensors of the first record and name it by its new digest, as its author would."""
    path = records(folder)[0]
    save_file({**load_file(path), **changes}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.rename(path.with_name(f"first-000000-chunks-000002-{digest}.safetensors"))


def make_unreadable(folder: Path) -> str:
    rewrite(folder, about=np.frombuffer(b"[]", dtype=np.uint8))
    return "cannot be read"


def use_later_format(folder: Path) -> str:
    about = load_file(records(folder)[0])["about"].tobytes().replace(b'"version": 3', b'"version": 9')
    rewrite(folder, about=np.frombuffer(about, dtype=np.uint8))
    return "version 9 of the format; this program reads 3"


def give_unknown_reason(folder: Path) -> str:
    about = load_file(records(folder)[0])["about"].tobytes()
    told = about.replace(b'"verdicts": []', b'"verdicts": [[0, "bored", "", null]]')
    rewrite(folder, about=np.frombuffer(told, dtype=np.uint8))
    return "a verdict on client 0 with the reason 'bored'"


def give_wrong_norm(folder: Path) -> str:
    about = load_file(records(folder)[0])["about"].tobytes()
    told = about.replace(b'"verdicts": []', b'"verdicts": [[0, "late", "", "long"]]')
    rewrite(folder, about=np.frombuffer(told, dtype=np.uint8))
    return "a verdict on client 0 with the norm 'long'"


def refuse_client_of_sum(folder: Path) -> str:
    about = load_file(records(folder)[0])["about"].tobytes()
    told = about.replace(b'"verdicts": []', b'"verdicts": [[0, "not_finite", "", null]]')
    rewrite(folder, about=np.frombuffer(told, dtype=np.uint8))
    return "its sums do not fit its chunks"


def drop_clients_from_sum(folder: Path) -> str:
    rewrite(folder, **{"sums/0": np.zeros(5, dtype=np.int64)})
    return "its sums do not fit its chunks"


def shorten_sum(folder: Path) -> str:
    rewrite(folder, **{"sums/0": np.zeros(4, dtype=np.int64)})
    return "its sums do not fit its chunks"


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        truncate,
        misname,
        lose_client,
        make_unreadable,
        use_later_format,
        give_unknown_reason,
        give_wrong_norm,
        refuse_client_of_sum,
        drop_clients_from_sum,
        shorten_sum,
    ],
)
def test_damaged_records_are_left_out_and_said(folder: Path, whole: object, damage, caplog) -> None:
    said = damage(folder)
    left, result = resumed(folder)
    assert left == [*CHUNKS[:2], CHUNKS[3]] and result == whole
    assert said in caplog.text and "It is left out." in caplog.text


@pytest.mark.parametrize(
    "start", [replace(START, run_seed=6), replace(START, adapters_sha256="cd" * 32)], ids=["seed", "adapters"]
)
def test_what_was_trained_from_another_state_is_left_out(folder: Path, start: RoundStart, caplog) -> None:
    job = Job(folder)
    assert job.begin(start) == CHUNKS
    assert caplog.text.count("trained from another state than the checkpoint's") == 2
    assert records(folder) == []


def test_chunks_that_are_formed_differently_are_left_out(folder: Path, caplog) -> None:
    job = Job(folder)
    job.progress.go_on_after(3)
    assert job.progress.begin(4, lambda: START, CHUNKS[1:], is_saved=True) == [CHUNKS[1], CHUNKS[3]]
    assert caplog.text.count("has chunks that this round has not") == 1


@pytest.mark.parametrize(("saved_round", "is_kept"), [(3, True), (2, False), (4, False), (None, False)])
def test_only_the_round_after_the_checkpoint_counts(folder: Path, saved_round: int | None, is_kept: bool) -> None:
    Job(folder).progress.go_on_after(saved_round)
    assert bool(records(folder)) == is_kept


def test_records_go_when_their_round_has_a_checkpoint(folder: Path) -> None:
    progress = Job(folder).progress
    progress.forget_through(3)
    assert len(records(folder)) == 2
    progress.forget_through(4)
    assert list((folder / "progress").iterdir()) == []


def test_short_chunks_are_saved_together(tmp_path: Path) -> None:
    job = Job(tmp_path / "run", every_seconds=30.0)
    job.begin()
    num_saved = []
    for seconds, chunk in zip((10.0, 31.0, 40.0, 62.0), CHUNKS, strict=True):
        job.seconds = seconds
        job.train(chunk)
        num_saved.append(sum(len(read_record(path).chunks) for path in records(tmp_path / "run")))
    assert num_saved == [0, 2, 2, 4]


def test_a_stop_saves_at_once_and_only_what_is_new(tmp_path: Path) -> None:
    job = Job(tmp_path / "run", every_seconds=30.0)
    job.begin()
    job.train(*CHUNKS[:2])
    assert job.progress.num_left(CHUNKS[:3]) == 1
    job.progress.save(job.sums)
    job.background.wait()
    (path,) = records(tmp_path / "run")
    path.unlink()
    job.progress.save(job.sums)
    job.background.wait()
    assert records(tmp_path / "run") == []


@pytest.mark.parametrize(("every_seconds", "is_saved"), [(None, True), (0.0, False)])
def test_a_round_that_nobody_could_go_on_with_is_not_recorded(tmp_path, every_seconds, is_saved) -> None:
    job = Job(tmp_path / "run", every_seconds=every_seconds)
    job.begin(is_saved=is_saved)
    assert not job.progress.is_recorded and job.progress.num_left(CHUNKS) == 0
    job.train(*CHUNKS)
    assert not (tmp_path / "run" / "progress").exists()


def test_a_full_disk_ends_the_run_and_leaves_what_was_saved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(folder)
    left = job.begin()

    def fail(tensors: object, path: Path) -> None:
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(progress_record, "save_file", fail)
        told = "what is finished of the round cannot be written .*No space left on device.* go on with --resume"
        with pytest.raises(CheckpointError, match=told):
            job.train(*left)
    assert len(records(folder)) == 2 and resumed(folder)[0] == left


def test_saved_chunks_are_told(folder: Path) -> None:
    (folder / "checkpoints" / "round-000003").mkdir(parents=True)
    (folder / "checkpoints" / "round-000003" / "manifest.json").touch()
    assert saved_rounds(folder) == {".": 3, "progress/round-000004": 3}
    assert told(saved_rounds(folder)) == "round 3; 3 chunks of round 4"


def test_the_background_gets_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, tasks = Job(tmp_path / "run"), []
    monkeypatch.setattr(job.background, "start", tasks.append)
    job.begin()
    job.train(CHUNKS[0])
    monkeypatch.setattr(job.progress, "_every_seconds", 99.0)
    job.train(CHUNKS[1])
    tasks[0]()
    (record,) = map(read_record, records(tmp_path / "run"))
    assert record.sums[0][0] == 2 and len(record.notes.losses) == 2
    assert round_progress.progress_name(4) == "round-000004"
