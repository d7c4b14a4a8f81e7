"""A worker whose rank 1 gets a signal while it trains in a round: SIGNAL ROUND, then the worker's arguments."""

from __future__ import annotations

import os
import signal
import sys

from heterotune import worker
from heterotune.simulation import Simulation

how, round_number = getattr(signal, sys.argv[1]), int(sys.argv[2])
_train_chunk = Simulation._train_chunk


def _interrupt(self, chunk, prepared):
    trained = _train_chunk(self, chunk, prepared)
    if self.channel.mpi_rank == 1 and self.rounds_done == round_number - 1:
        os.kill(os.getpid(), how)
    return trained


Simulation._train_chunk = _interrupt
sys.exit(worker.main(sys.argv[3:]))
