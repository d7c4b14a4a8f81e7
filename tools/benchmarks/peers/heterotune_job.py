"""One MPI rank of the job in heterotune: the engine's own worker, with a clock beside its rounds.

The engine's `seconds/round` leaves out the writing of its journal. This clock leaves out nothing.
"""

from __future__ import annotations

import json
import sys
import time

from heterotune import runner, worker
from heterotune.simulation import Simulation


class TimedSimulation(Simulation):
    """Notes when each round ended."""

    def run(self) -> None:
        """Run, then write the times beside the run's metrics."""
        self.round_ends: list[float] = []
        super().run()
        if self.journal.is_root:
            (self.journal.folder / "round_ends.json").write_text(json.dumps(self.round_ends))

    def run_round(self, round_number: int) -> None:
        """Run one round."""
        super().run_round(round_number)
        self.round_ends.append(time.perf_counter())


if __name__ == "__main__":
    runner.Simulation = TimedSimulation
    sys.exit(worker.main())
