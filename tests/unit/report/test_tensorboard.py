"""Scalars as TensorBoard reads them back."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from heterotune.report.tensorboard import TensorboardScalars, tag_of


def entry(round_number: int, value: float, **labels) -> dict:
    return {"round": round_number, "name": "loss/eval", **labels, "value": value, "unit": "nats/token"}


def read(folder) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_what_was_flushed_can_be_read_while_the_run_goes_on(tmp_path) -> None:
    scalars = TensorboardScalars(tmp_path / "tensorboard" / "heterotune", first_round=0)
    scalars.add([entry(0, 2.5, model_type="small"), entry(0, 0.1), entry(0, 3.0, model_type="small", client=7)])
    scalars.flush()
    assert read(tmp_path / "tensorboard" / "heterotune") == {
        "loss/eval/small": [(0, 2.5)],
        "loss/eval": [(0, np.float32(0.1))],
    }
    scalars.add([entry(1, float("nan"))])
    scalars.close()
    assert np.isnan(read(tmp_path / "tensorboard" / "heterotune")["loss/eval"][1][1])


def test_what_came_after_the_round_that_a_job_goes_on_from_is_dropped(tmp_path) -> None:
    for first_round, values in ((0, [0.5, 1.5, 2.5, 3.5]), (2, [2.25, 3.25]), (3, [3.125])):
        scalars = TensorboardScalars(tmp_path, first_round=first_round)
        scalars.add([entry(first_round + i, value) for i, value in enumerate(values)])
        scalars.close()
    assert len(list(tmp_path.iterdir())) == 3, "jobs within one second have files of their own, too"
    assert read(tmp_path) == {"loss/eval": [(0, 0.5), (1, 1.5), (2, 2.25), (3, 3.125)]}


def test_a_job_that_writes_nothing_leaves_nothing(tmp_path) -> None:
    scalars = TensorboardScalars(tmp_path / "none", first_round=0)
    scalars.add([entry(1, 1.0, client=3)])
    scalars.flush()
    scalars.close()
    assert not (tmp_path / "none").exists()


def test_tags_are_names_and_labels() -> None:
    cosine = {
        "round": 1,
        "name": "cmga/cosine",
        "group": "dema.head/head",
        "pair": "a:b",
        "value": 0.1,
        "unit": "cosine",
    }
    assert tag_of(cosine) == "cmga/cosine/dema.head/head/a:b"
    assert tag_of({"round": 1, "name": "rank/idle_share", "mpi_rank": 3, "value": 0.1}) == "rank/idle_share/rank-3"


def test_nothing_of_tensorboard_is_imported_before_the_first_scalar(tmp_path) -> None:
    lines = (
        "import sys; from pathlib import Path; from heterotune.report.tensorboard import TensorboardScalars",
        f"scalars = TensorboardScalars(Path({str(tmp_path)!r}), first_round=0)",
        "assert not any(name.startswith(('tensorboard', 'torch')) for name in sys.modules)",
        "scalars.add([{'round': 1, 'name': 'a', 'value': 1.0}])",
        "assert 'tensorboard' in sys.modules and 'tensorflow' not in sys.modules and 'torch' not in sys.modules",
    )
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, timeout=60)
