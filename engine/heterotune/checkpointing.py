"""When and how a simulation's checkpoints are written: fixed at once, to disk while the next round trains."""

from __future__ import annotations

from typing import Any

from heterotune.background import Background
from heterotune.checkpoint import Checkpoint, begin_checkpoint, best_checkpoint
from heterotune.config.record_options import CheckpointConfig
from heterotune.file_digests import KnownFiles
from heterotune.journal import Journal
from heterotune.round_progress import RoundProgress


class Checkpointing:
    """What a rank knows of its strategy's checkpoints; only the root writes them.

    Attributes:
        saved_round: Of the newest checkpoint; None = there is none.
        best: {"round", "heldout_loss"} of the best one; None = none is known.
    """

    def __init__(
        self, config: CheckpointConfig, journal: Journal, progress: RoundProgress, background: Background
    ) -> None:
        """Begin without a checkpoint.

        Args:
            config: How many to keep.
            journal: Knows the folder and the held-out losses.
            progress: What it recorded of a round is forgotten when the round's checkpoint is whole.
            background: Where files are written.
        """
        self._config, self._journal, self._progress, self._background = config, journal, progress, background
        self._known_files = KnownFiles()
        self.saved_round: int | None = None
        self.best: dict[str, Any] | None = None

    def go_on_from(self, saved: Checkpoint) -> None:
        """Take note of the checkpoint that the run goes on from."""
        self.saved_round, self.best = saved.round_number, saved.facts.get("best")

    def is_due(self, rounds_done: int) -> bool:
        """Return whether a checkpoint is due after so many rounds."""
        return self._config.every_rounds > 0 and rounds_done % self._config.every_rounds == 0

    def pick_best(self, round_number: int) -> None:
        """Decide whether the state after a round is the best so far (root only), before it is saved."""
        if self._config.keep_best:
            losses = self._journal.losses_of(round_number)
            self.best = best_checkpoint(self._journal.folder, self.best, round_number, losses)

    def save(self, state: Checkpoint) -> None:
        """Fix a state and write it in the background (root only).

        Raises:
            CheckpointError: If it cannot be fixed, or if an earlier write failed.
        """
        write = begin_checkpoint(self._journal.folder, state)

        def save() -> None:
            write(self._config.keep, self._known_files)
            self._progress.forget_through(state.round_number)

        self._background.start(save)
