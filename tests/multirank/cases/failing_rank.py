"""A worker whose rank 1 fails while it trains."""

from __future__ import annotations

import sys

from heterotune import worker
from heterotune.simulation import Simulation

_train = Simulation.train


def _fail(self, plan):
    if self.channel.mpi_rank == 1 and plan.round_number == 2:
        raise OSError("the disk of rank 1 is gone")
    return _train(self, plan)


Simulation.train = _fail
sys.exit(worker.main())
