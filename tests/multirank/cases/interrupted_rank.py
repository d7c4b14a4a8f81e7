"""A worker whose rank 1 gets a signal after some chunks of a round: SIGNAL ROUND CHUNKS, then the worker's arguments.

Every rank says which chunks it trains, and writes what it has finished before it goes on.
"""

from __future__ import annotations

import os
import signal
import sys

from heterotune import worker
from heterotune.round_progress import RoundProgress
from heterotune.simulation import Simulation

how, round_number, num_chunks = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
train_chunk, chunk_done = Simulation._train_chunk, RoundProgress.chunk_done
finished = []


def _say(self, chunk, prepared):
    clients = ",".join(str(client.client_id) for client in chunk.clients)
    print(f"trains {self.strategy.name} {self.rounds_done + 1} {clients}", flush=True)
    return train_chunk(self, chunk, prepared)


def _interrupt(self, chunk, sums):
    self._background.wait()
    chunk_done(self, chunk, sums)
    self._background.wait()
    if self._journal.channel.mpi_rank == 1 and self._journal._round_number == round_number:
        finished.append(chunk)
        if len(finished) == num_chunks:
            os.kill(os.getpid(), getattr(signal, how))


Simulation._train_chunk = _say
RoundProgress.chunk_done = _interrupt
sys.exit(worker.main(sys.argv[4:]))
