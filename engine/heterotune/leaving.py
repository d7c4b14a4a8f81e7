"""When a run that was asked to stop ends in the middle of a round: after a chunk, with all that is finished saved."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from heterotune.aggregation.exact import ExactSum
from heterotune.backbone.load import Backbone
from heterotune.errors import RunStopped
from heterotune.journal import Journal
from heterotune.round_plan import RoundPlan
from heterotune.round_progress import RoundProgress


class Leaving:
    """One rank in one round: whether it trains on. Ranks in lock step leave after the same pass."""

    def __init__(self, plan: RoundPlan, backbones: Mapping[int, Backbone], progress: RoundProgress, journal: Journal):
        """Begin a round in which nobody has left."""
        self._plan, self._backbones, self._progress, self._journal = plan, backbones, progress, journal
        self.has_left = False

    def after(self, place: int, num_passes: int) -> bool:
        """Return whether this rank trains no more in this round.

        Args:
            place: The model type that it is at. Every rank that shares its backbone must call this.
            num_passes: How many passes it has made for that.
        """
        backbone = self._backbones[place]
        if not self._progress.is_recorded:
            return False  # what is finished would be lost
        if backbone.in_lock_step and not self._plan.is_pause(backbone.mpi_ranks, place, num_passes):
            return False
        self.has_left = backbone.any_rank(self._journal.stop_wanted())
        return self.has_left

    def stop_if_any_rank_left(self, rounds: int, sums: Mapping[int, ExactSum]) -> None:
        """End the run if some rank left chunks of the round untrained. Every rank must call this.

        Args:
            rounds: Of the run, for the message.
            sums: This rank's.

        Raises:
            RunStopped: On every rank alike; what is finished is saved.
        """
        if not self._progress.is_recorded:
            return
        if self.has_left:
            self._progress.save(sums)  # before waiting for ranks that are in the middle of a chunk
        channel, plan = self._journal.channel, self._plan
        num_left = np.array([self._progress.num_left(plan.by_rank[channel.mpi_rank])])
        channel.sum_to_root(num_left)
        channel.broadcast(num_left)
        if num_left[0] > 0:
            self._progress.save(sums)
            self._progress.wait()
            told = f"stopped as asked in round {plan.round_number} of {rounds}"
            raise RunStopped(f"{told}, {num_left[0]} of its {len(plan.chunks)} chunks left; all is saved.")
