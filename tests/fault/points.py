"""Where faults strike: drawn from a seed, so that a list of them can be repeated."""

from __future__ import annotations

import random
from dataclasses import dataclass

NUM_ROUNDS = 3
NUM_RANKS = 2
WATCHDOG_SECONDS = 5

KINDS = (
    "SIGKILL of a rank",
    "SIGKILL of mpirun",
    "SIGSTOP of a rank",
    "client raises",
    "checkpoint bit flipped",
    "full disk",
    "checkpoint truncated",
)
_PHASES = ("train", "encode", "gather", "broadcast", "evaluate", "checkpoint")
_FIRST_PHASES = ("load", "align", "evaluate")  # of "round 0", before anything is trained


@dataclass(frozen=True)
class FaultPoint:
    """One fault.

    Attributes:
        number: Its place in the list.
        what: One of KINDS.
        mpi_rank: Where it strikes; for SIGKILL of mpirun, who sends it.
        round: In which round; 0 = before the first.
        phase: Which phase of the round the rank has just entered.
        delay_seconds: How long after that.
        waits: The rank waits in the phase until then; else it goes on, and the fault meets whatever it does by then.
        resume_ranks: On how many ranks the run goes on.
        place: Share of the way through a file at which it is damaged, or of the room that is left on a full disk.
    """

    number: int
    what: str
    mpi_rank: int
    round: int
    phase: str
    delay_seconds: float
    waits: bool
    resume_ranks: int
    place: float


def draw_points(seed: int, num_points: int) -> list[FaultPoint]:
    """Return a list of faults, the kinds in turn, everything else by the seed."""
    draw = random.Random(seed)
    return [_draw_point(number, KINDS[number % len(KINDS)], draw) for number in range(num_points)]


def _draw_point(number: int, what: str, draw: random.Random) -> FaultPoint:
    round_number = draw.randint(0, NUM_ROUNDS)
    if what == "client raises":
        round_number = max(1, round_number)
    elif what == "full disk":
        round_number = min(2, max(1, round_number))
    elif what.startswith("checkpoint"):
        round_number = NUM_ROUNDS  # two checkpoints are there by then
    phases = _PHASES if round_number else _FIRST_PHASES
    if what.startswith("checkpoint") or what == "client raises":
        phases = ("train",)
    return FaultPoint(
        number=number,
        what=what,
        mpi_rank=0 if what == "full disk" else draw.randrange(NUM_RANKS),
        round=round_number,
        phase=draw.choice(phases),
        delay_seconds=round(draw.uniform(0, 0.02), 4),
        waits=round_number in (0, NUM_ROUNDS),  # else the run might be over before
        resume_ranks=draw.choice((1, 2, 3)),
        place=round(draw.random(), 3),
    )
