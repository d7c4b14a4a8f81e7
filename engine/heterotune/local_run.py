"""A run on this machine from its checks to its end: what the command line and the Python API have in common."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from heterotune.config.schema import RunConfig
from heterotune.launching import local
from heterotune.launching.num_ranks import check_num_ranks
from heterotune.launching.worker_environment import usable_cores
from heterotune.profiling.timing import Stopwatch
from heterotune.run_folder import RunFolder
from heterotune.run_lock import this_process


@dataclass(frozen=True)
class LocalRun:
    """A run that passed every check and has its folder, but no rank yet.

    Attributes:
        config: What runs.
        folder: Its run folder.
        num_ranks: How many ranks will run it.
        resumes: Whether it goes on with an earlier run.
        overrides: `key=value` each, on top of the folder's config.yaml.
        startup: Where the seconds went so far.
    """

    config: RunConfig
    folder: RunFolder
    num_ranks: int
    resumes: bool = False
    overrides: tuple[str, ...] = ()
    startup: Stopwatch = field(default_factory=Stopwatch)

    def execute(self, on_status: local.StatusWatcher) -> int:
        """Run the ranks and wait for them; returns the job's exit code."""
        return local.run_local(
            self.folder,
            self.num_ranks,
            threads_per_rank=self.config.threads_per_rank,
            resume=self.resumes,
            overrides=self.overrides,
            on_status=on_status,
        )


def prepare(
    config: RunConfig,
    num_ranks: int,
    *,
    earlier: Path | None = None,
    overrides: Sequence[str] = (),
    oversubscribe: bool = False,
    say: Callable[[str], None] = lambda message: None,
) -> LocalRun:
    """Check everything that can be checked before ranks start, and make the run folder.

    Args:
        config: The run, overrides applied.
        num_ranks: How many ranks shall run it.
        earlier: Folder of the run to go on with; None = a new one in the run's output folder.
        overrides: What was changed of an earlier run's config; a new run's are in its config.yaml.
        oversubscribe: Allow many more ranks than cores.
        say: Receives progress messages.

    Raises:
        ConfigError: If the ranks do not suit run and machine.
        LaunchError: If MPI or a compiled op is missing, or the run folder cannot be made.
        ModelError, DataError: If a model or the data cannot serve the fleet.
    """
    from heterotune import preflight
    from heterotune.doctor import prepare_run

    startup = Stopwatch()
    startup.add("launcher: imports", time.process_time())  # a script may have become this process by exec
    check_num_ranks(config, num_ranks, num_cores=usable_cores(), oversubscribe=oversubscribe)
    with startup.phase("launcher: doctor"):
        prepare_run(config, num_ranks, say)
    with startup.phase("launcher: models, tokenizer, data"):
        preflight.check(config)
    resumes = earlier is not None
    folder = RunFolder.create(config, config.output, config.name) if earlier is None else RunFolder.open(earlier)
    folder.status({"state": "starting", "rounds": config.rounds, "launcher": this_process()})
    return LocalRun(config, folder, num_ranks, resumes, tuple(overrides) if resumes else (), startup)
