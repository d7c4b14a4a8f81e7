"""A worker whose rank 1 gets a signal after some chunks of a round: SIGNAL ROUND CHUNKS, then the worker's arguments.

Every rank says which chunks it trains, and writes what it has finished before it goes on.
"""

from __future__ import annotations

import os
import signal
import sys

from heterotune import worker
from heterotune.chunk_training import ChunkTraining
from heterotune.round_progress import RoundProgress

how, round_number, num_chunks = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
train, chunk_done = ChunkTraining.train, RoundProgress.chunk_done
finished = []


def _say(self, round_number, chunk, prepared):
    clients = ",".join(str(client.client_id) for client in chunk.clients)
    print(f"trains {self._journal.strategy} {round_number} {clients}", flush=True)
    return train(self, round_number, chunk, prepared)


def _interrupt(self, chunk, sums):
    self._background.wait()
    chunk_done(self, chunk, sums)
    self._background.wait()
    if self._journal.channel.mpi_rank == 1 and self._journal._round_number == round_number:
        finished.append(chunk)
        if len(finished) == num_chunks:
            os.kill(os.getpid(), getattr(signal, how))


ChunkTraining.train = _say
RoundProgress.chunk_done = _interrupt
sys.exit(worker.main(sys.argv[4:]))
