"""The federated LoRA job that every system runs, as one file that NumPy alone can read, and what a system made of it.

Legend: N clients, M rows per client, T tokens, R rounds, C clients in a cohort, S local steps, B rows per step.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Job:
    """One job. Every client has as many rows as the others, so all weigh the same in the average.

    Attributes:
        about: "llama" (LlamaConfig fields), "lora_scale" (alpha / rank), "learning_rate", "run_seed".
        input_ids_NMT: What the model reads, int64, no padding.
        targets_NMT: The token after each, int64.
        cohorts_RC: Client numbers of each round, int64.
        picks_RCSB: Row numbers of each step, int64.
        weights: Frozen model, parameter name of `LlamaForCausalLM` -> float32.
        lora: First adapter, e.g. "layers.0.self_attn.q_proj.V" -> float32; U is (d_out, r), V is (r, d_in).
    """

    about: dict[str, Any]
    input_ids_NMT: np.ndarray
    targets_NMT: np.ndarray
    cohorts_RC: np.ndarray
    picks_RCSB: np.ndarray
    weights: Arrays
    lora: Arrays

    @property
    def num_rounds(self) -> int:
        """R."""
        return len(self.cohorts_RC)

    @property
    def cohort_size(self) -> int:
        """C."""
        return self.cohorts_RC.shape[1]

    @property
    def num_clients(self) -> int:
        """N."""
        return len(self.input_ids_NMT)

    @property
    def num_steps(self) -> int:
        """S."""
        return self.picks_RCSB.shape[2]

    @property
    def batch_size(self) -> int:
        """B."""
        return self.picks_RCSB.shape[3]

    def client_rows(self, round_number: int, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what the client at a place of a round's cohort trains on, step after step.

        Args:
            round_number: From 1.
            place: Place in the cohort, from 0.

        Returns:
            Input ids and targets, int64 (S·B, T): rows 0 to B - 1 are the first step's.
        """
        client_id = self.cohorts_RC[round_number - 1, place]
        picks = self.picks_RCSB[round_number - 1, place].ravel()
        return self.input_ids_NMT[client_id, picks], self.targets_NMT[client_id, picks]


def save_job(path: Path, job: Job) -> None:
    """Write a job as .npz."""
    arrays = {name: getattr(job, name) for name in ("input_ids_NMT", "targets_NMT", "cohorts_RC", "picks_RCSB")}
    np.savez(
        path, about=json.dumps(job.about), **arrays, **_prefixed("weights", job.weights), **_prefixed("lora", job.lora)
    )


def load_job(path: str | Path) -> Job:
    """Read a job."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    about = json.loads(arrays.pop("about").item())
    weights, lora = _taken("weights", arrays), _taken("lora", arrays)
    return Job(about, weights=weights, lora=lora, **arrays)


@dataclass(frozen=True)
class Outcome:
    """What a system made of a job.

    Attributes:
        round_ends: When each round ended, on one clock, in seconds.
        lora: The adapter after the last round; names and shapes as in the job.
        note: What the system chose by itself.
    """

    round_ends: np.ndarray
    lora: Arrays
    note: str = ""

    @property
    def timed_seconds(self) -> np.ndarray:
        """The rounds that count, end to end: not the first (start-up), nor the last (heterotune evaluates there)."""
        return np.diff(self.round_ends)[:-1]


def save_outcome(path: str | Path, round_ends: Sequence[float], lora: Arrays) -> None:
    """Write an outcome as .npz."""
    np.savez(path, round_ends=np.array(round_ends, dtype=np.float64), **_prefixed("lora", lora))


def load_outcome(path: str | Path) -> Outcome:
    """Read an outcome."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    return Outcome(arrays["round_ends"], _taken("lora", arrays))


def relative_difference(lora: Arrays, reference: Arrays, start: Arrays) -> float:
    """Return the norm of the difference of two adapters, over the norm of what the reference learned."""
    if lora.keys() != reference.keys():
        raise ValueError(f"adapters differ in their tensors: {sorted(lora.keys() ^ reference.keys())}")
    return _norm(lora[name] - reference[name] for name in reference) / _norm(reference[n] - start[n] for n in reference)


def _norm(arrays: Iterable[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in arrays)))


def _prefixed(prefix: str, arrays: Arrays) -> dict[str, np.ndarray]:
    return {f"{prefix}/{name}": array for name, array in arrays.items()}


def _taken(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Move what stands under a prefix out of a dictionary."""
    names = [name for name in arrays if name.startswith(f"{prefix}/")]
    return {name.removeprefix(f"{prefix}/"): arrays.pop(name) for name in names}
