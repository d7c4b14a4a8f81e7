"""Variables that a rank needs before it imports torch or DeepSpeed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

_GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
_CPU_THREADS = 1


def worker_variables(
    environ: Mapping[str, str], *, threads_per_rank: int | Literal["auto"], has_gpu: bool
) -> dict[str, str]:
    """Return the variables to set or change for a rank.

    Args:
        environ: Where they will be added; DS_ACCELERATOR and log levels that the user set there are kept.
        threads_per_rank: As in the run file; "auto" = 1, so that bits never depend on the number of ranks.
        has_gpu: Whether torch can use one.
    """
    threads = str(num_threads(threads_per_rank))
    chosen = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
    quiet = {
        "TRANSFORMERS_VERBOSITY": "warning",
        "DS_LOG_LEVEL": "warning",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        # A rank that waits gives its core to one that works (2 ranks beside a foreign process: 0.130 -> 0.078 s a round
        # of a small job, 2026-11-21).
        "OMPI_MCA_mpi_yield_when_idle": "1",
        # Activations come and go every pass; glibc would map and fault their pages each time (5-10 % of a small pass).
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
    }
    if not has_gpu:
        quiet["DS_ACCELERATOR"] = "cpu"
    return chosen | {name: value for name, value in quiet.items() if name not in environ}


def num_threads(threads_per_rank: int | Literal["auto"]) -> int:
    """Return the threads of a rank; "auto" = 1, so that bits never depend on the number of ranks."""
    return _CPU_THREADS if threads_per_rank == "auto" else threads_per_rank


def gpu_is_usable() -> bool:
    """Return whether torch can use a GPU; torch is imported only if the machine has a GPU's device file."""
    if not any(Path(device).exists() for device in _GPU_DEVICES):
        return False
    import torch

    return torch.cuda.is_available()


def usable_cores() -> int:
    """Return the CPU cores that this process may use; an affinity mask or a batch system may allow few of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
