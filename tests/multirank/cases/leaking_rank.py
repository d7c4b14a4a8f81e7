"""A whole run in which the last MPI rank keeps 8 MiB of every chunk that it trains. Arguments: those of the worker."""

from __future__ import annotations

import os
import sys

import numpy as np

import heterotune.chunk_training
from heterotune.worker import main

KEPT: list[np.ndarray] = []
train_chunk = heterotune.chunk_training.train_chunk


def leaking(*arguments, **options):
    """Train, and keep memory that nobody needs."""
    if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
        KEPT.append(np.ones(8 * 2**20, dtype=np.uint8))
    return train_chunk(*arguments, **options)


heterotune.chunk_training.train_chunk = leaking
sys.exit(main())
