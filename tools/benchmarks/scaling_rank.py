"""One rank of the scaling benchmark: every point's rounds and the collective part of rounds, in turn.

python scaling_rank.py --turns 6 --alone --answer FILE        # started by scaling.py
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(REPOSITORY / "engine")]

import torch  # noqa: E402
from collective import CollectiveRound  # noqa: E402
from ranks import open_ranks  # noqa: E402
from scaling_points import POINTS, Point  # noqa: E402

from heterotune import preflight  # noqa: E402
from heterotune.collective.channel import Channel  # noqa: E402
from heterotune.collective.single import SingleChannel  # noqa: E402
from heterotune.collective.traffic import Moved, Traffic  # noqa: E402
from heterotune.config.load import parse_run  # noqa: E402
from heterotune.federation import Federation, load_backbones  # noqa: E402
from heterotune.fleet.placement import spread  # noqa: E402
from heterotune.journal import Journal  # noqa: E402
from heterotune.run_folder import RunFolder  # noqa: E402
from heterotune.simulation import Simulation  # noqa: E402
from heterotune.strategies import make_strategy  # noqa: E402

WARM_ROUNDS = 1
TOPOLOGIES = ("root", "sharded")


def main() -> None:
    """Measure; the root writes the answer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument(
        "--alone", action="store_true", help="every rank also makes the rounds alone, in turn with them"
    )
    parser.add_argument("--points", nargs="*", default=[point.name for point in POINTS])
    parser.add_argument("--kilobytes", type=int, nargs="*", default=[])
    parser.add_argument("--answer", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    channel, busy = open_ranks(), BusyTraffic()
    channel.traffic = busy
    channels = [SingleChannel(), channel] if options.alone else [channel]
    points = [point for point in POINTS if point.name in options.points]
    with tempfile.TemporaryDirectory() as scratch:
        shared = Path(channel.broadcast_bytes(scratch.encode()).decode())
        folders = [Path(scratch) / "alone", shared / "together"] if options.alone else [shared / "together"]
        answer = measure_rounds(dict(zip(channels, folders, strict=True)), busy, points, options.turns)
    answer["collective"] = measure_collective(channels, busy, options.kilobytes, options.turns)
    if channel.mpi_rank == 0:
        options.answer.write_text(json.dumps(answer))
    channel.barrier()
    channel.close()


class BusyTraffic(Traffic):
    """Counts beside the traffic what the channel's calls take of the CPU: ranks that wait keep it busy."""

    def __init__(self) -> None:
        super().__init__()
        self.inside_seconds = 0.0  # CPU
        self.moving_seconds = 0.0  # wall

    @contextmanager
    def counted(self, verb: str) -> Iterator[Moved]:
        """Count what runs inside."""
        cpu, wall = time.process_time(), time.perf_counter()
        with super().counted(verb) as moved:
            yield moved
        self.inside_seconds += time.process_time() - cpu
        self.moving_seconds += time.perf_counter() - wall

    def busy(self) -> float:
        """Return the CPU seconds of this process outside the channel's calls."""
        return time.process_time() - self.inside_seconds


def measure_rounds(
    folders: dict[Channel, Path], busy: BusyTraffic, points: list[Point], num_turns: int
) -> dict[str, Any]:
    """Return for each point and number of ranks the seconds of every round, busy and wall, and the digests.

    Args:
        folders: Channels to run on, this rank's alone or the job's, and where their run folders go.
        busy: Of the job's channel, which is the last.
        points: What to run.
        num_turns: Rounds that count.
    """
    *_, channel = folders
    simulations = {
        (point.name, each.num_ranks): _simulation(each, point, folder / str(n))
        for n, point in enumerate(points)
        for each, folder in folders.items()
    }
    found: dict[str, list[tuple[float, float]]] = {json.dumps(key): [] for key in simulations}
    for round_number in range(1, num_turns + WARM_ROUNDS + 1):
        for key, simulation in simulations.items():
            channel.barrier()
            before, started = busy.busy(), time.perf_counter()
            simulation.run_round(round_number)
            if round_number > WARM_ROUNDS:
                found[json.dumps(key)].append((busy.busy() - before, time.perf_counter() - started))
    by_rank = channel.gather_bytes(json.dumps(found).encode())
    digests = [(name, simulation.adapters.sha256()) for (name, _), simulation in simulations.items()]
    return {"rounds": _busiest([json.loads(part) for part in by_rank or ()]), "digests": digests}


def _busiest(by_rank: list[dict[str, list[tuple[float, float]]]]) -> list[tuple[str, int, list[tuple[float, float]]]]:
    """Return (point, ranks, each round's seconds): of one rank alone the root's, else those of the busiest rank."""
    rows = []
    for key in by_rank[0] if by_rank else ():
        name, num_ranks = json.loads(key)
        of_ranks = [found[key] for found in (by_rank if num_ranks > 1 else by_rank[:1])]
        rows.append((name, num_ranks, [max(each) for each in zip(*of_ranks, strict=True)]))
    return rows


def measure_collective(
    channels: Sequence[Channel], busy: BusyTraffic, kilobytes: list[int], num_turns: int
) -> list[dict[str, Any]]:
    """Return a row for each channel, size, topology and turn: seconds of the parts of a round after training.

    `work` is what the busiest rank does itself; `moving` is the time inside the channel's calls of the rank that comes
    last and so waits for nobody.
    """
    job = channels[-1]
    rounds = {
        (each.num_ranks, size, name): CollectiveRound(each, size << 10, name, busy.busy)
        for size in kilobytes
        for name in TOPOLOGIES
        for each in channels
    }
    rows = []
    for turn in range(num_turns + 1):
        for (num_ranks, size, name), each in rounds.items():
            job.barrier()
            started, moved = time.perf_counter(), busy.moving_seconds
            each.run()
            mine = {
                "encode": each.seconds["encode"][-1],
                "work": sum(each.seconds[part][-1] for part in ("gather", "combine", "broadcast")),
                "moving": busy.moving_seconds - moved,
                "wall": time.perf_counter() - started,
            }
            parts = [json.loads(part) for part in job.gather_bytes(json.dumps(mine).encode()) or ()]
            if turn > 0 and parts:
                kept = parts if num_ranks > 1 else parts[:1]
                row: dict[str, Any] = {"ranks": num_ranks, "kilobytes": size, "topology": name}
                row |= {"encode": kept[0]["encode"], "work": max(part["work"] for part in kept)}
                row |= {"moving": min(p["moving"] for p in kept), "wall": max(p["wall"] for p in kept)}
                rows.append(row)
    return rows


def _simulation(channel: Channel, point: Point, folder: Path) -> Simulation:
    """Return a federation before its first round."""
    checked, device = preflight.check(parse_run(point.run())), torch.device("cpu")
    config, num_types = checked.config, len(checked.model_types)
    placement = spread(num_types, channel.num_ranks)
    if channel.mpi_rank == 0:
        folder.mkdir(parents=True)
    channel.barrier()
    federation = Federation(
        config=config,
        channel=channel,
        model_types=checked.model_types,
        population=checked.population,
        data=checked.data,
        public=checked.public,
        placement=placement,
        backbones=load_backbones(checked.model_types, config, channel, device, folder, placement),
        device=device,
    )
    names = [model_type.name for model_type in checked.model_types]
    journal = Journal(RunFolder.open(folder), channel, names, config.strategy, config.rounds)
    simulation = Simulation(federation, make_strategy(config.strategy, config), journal)
    simulation.chunk_clients = dict.fromkeys(range(num_types), point.chunk)
    return simulation


if __name__ == "__main__":
    main()
