"""Everything that a user or a peer can cause, by name. The command line maps these to exit codes."""

from __future__ import annotations

from collections.abc import Sequence

PREEMPTED = 75
"""Exit code of a job that was asked to stop and has saved; EX_TEMPFAIL of sysexits.h: try again later."""


_MOST_PROBLEMS = 100
_LONGEST_PROBLEM = 1000  # characters


class HeterotuneError(Exception):
    """Base of all errors that are not our own mistakes."""

    exit_code = 1


class ConfigError(HeterotuneError):
    """The run file, an override or a DeepSpeed JSON is wrong. Carries every problem found, not just the first."""

    exit_code = 2

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(_readable(self.problems)))


def _readable(problems: Sequence[str]) -> list[str]:
    """Cut what nobody would read to the end: a file of a megabyte can be wrong in every line."""
    lines = [
        problem if len(problem) <= _LONGEST_PROBLEM else f"{problem[:_LONGEST_PROBLEM]}..." for problem in problems
    ]
    more = len(lines) - _MOST_PROBLEMS
    return lines if more <= 0 else [*lines[:_MOST_PROBLEMS], f"... and {more} more."]


class DataError(HeterotuneError):
    """The corpus cannot serve this fleet."""

    exit_code = 2


class ModelError(HeterotuneError):
    """A model is missing, is not a LLaMA, or does not fit the fleet."""

    exit_code = 2


class LaunchError(HeterotuneError):
    """The processes that were started do not form the job that was asked for."""

    exit_code = 2


class ExportError(HeterotuneError):
    """What is wanted of a run cannot be exported, or not to there."""

    exit_code = 2


class CheckpointError(HeterotuneError):
    """A checkpoint cannot be written, or is broken."""


class RunStopped(HeterotuneError):
    """Somebody asked the run to stop; it has saved what it needs to go on."""

    exit_code = PREEMPTED


class RunFailed(HeterotuneError):
    """The ranks of a run that Python code started ended badly; carries the first failing rank's traceback."""


class WireError(HeterotuneError):
    """Bytes that are not a message of ours."""


class CollectiveError(HeterotuneError):
    """Ranks disagree about a collective operation."""


class AggregationError(HeterotuneError):
    """An update cannot be aggregated; the message names the client."""


class RecordError(HeterotuneError):
    """A line of a run folder's records is damaged; the message names file and line."""


class TooFewClients(HeterotuneError):
    """A round has fewer updates than the run asks for, and its policy is to stop."""


class TooFewAvailable(HeterotuneError):
    """At no time of a whole period are as many clients available as a round needs."""

    exit_code = 2
