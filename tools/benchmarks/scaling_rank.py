"""One rank of the scaling benchmark: every point's rounds and the collective part of rounds, in turn.

python scaling_rank.py --rounds 3 --answer FILE        # started by scaling.py
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
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
from heterotune.collective.traffic import Moved, Traffic  # noqa: E402
from heterotune.config.load import parse_run  # noqa: E402
from heterotune.federation import Federation, load_backbones  # noqa: E402
from heterotune.fleet.placement import spread  # noqa: E402
from heterotune.journal import Journal  # noqa: E402
from heterotune.run_folder import RunFolder  # noqa: E402
from heterotune.simulation import Simulation  # noqa: E402
from heterotune.strategies import make_strategy  # noqa: E402

WARM_ROUNDS = 1
COLLECTIVE_TURNS = 8
TOPOLOGIES = ("root", "sharded")


def main() -> None:
    """Measure; the root writes the answer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--points", nargs="*", default=[point.name for point in POINTS])
    parser.add_argument("--kilobytes", type=int, nargs="*", default=[])
    parser.add_argument("--answer", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    channel, busy = open_ranks(), BusyTraffic()
    channel.traffic = busy
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(channel.broadcast_bytes(scratch.encode()).decode())
        points = [point for point in POINTS if point.name in options.points]
        answer: dict[str, Any] = measure_rounds(channel, busy, points, folder, options.rounds)
    answer["collective"] = measure_collective(channel, busy, options.kilobytes, COLLECTIVE_TURNS)
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
    channel: Channel, busy: BusyTraffic, points: list[Point], folder: Path, num_rounds: int
) -> dict[str, Any]:
    """Return each point's seconds of every round that counts, busy and wall, and its digest."""
    simulations = {point.name: _simulation(channel, point, folder / str(n)) for n, point in enumerate(points)}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in simulations}
    for round_number in range(1, WARM_ROUNDS + num_rounds + 1):
        for name, simulation in simulations.items():
            channel.barrier()
            before, started = busy.busy(), time.perf_counter()
            simulation.run_round(round_number)
            if round_number > WARM_ROUNDS:
                found[name].append((busy.busy() - before, time.perf_counter() - started))
    by_rank = channel.gather_bytes(json.dumps(found).encode())
    digests = {name: each.adapters.sha256() for name, each in simulations.items()}
    return {"rounds": _busiest([json.loads(part) for part in by_rank or ()]), "digests": digests}


def _busiest(by_rank: list[dict[str, list[tuple[float, float]]]]) -> dict[str, list[tuple[float, float]]]:
    """Return each round's seconds on the rank that had most to do, and its wall time."""
    names = by_rank[0] if by_rank else ()
    return {name: [max(each) for each in zip(*(found[name] for found in by_rank), strict=True)] for name in names}


def measure_collective(channel: Channel, busy: BusyTraffic, kilobytes: list[int], num_turns: int) -> list[dict]:
    """Return a row for each size, topology and turn: seconds of the parts of a round after training.

    `work` is what the busiest rank does itself; `moving` is the time inside the channel's calls of the rank that comes
    last and so waits for nobody.
    """
    rounds = {
        (size, name): CollectiveRound(channel, size << 10, name, busy.busy) for size in kilobytes for name in TOPOLOGIES
    }
    rows = []
    for turn in range(num_turns + 1):
        for (size, name), each in rounds.items():
            channel.barrier()
            started, moved = time.perf_counter(), busy.moving_seconds
            each.run()
            mine = {
                "encode": each.seconds["encode"][-1],
                "work": sum(each.seconds[part][-1] for part in ("gather", "combine", "broadcast")),
                "moving": busy.moving_seconds - moved,
                "wall": time.perf_counter() - started,
            }
            parts = [json.loads(part) for part in channel.gather_bytes(json.dumps(mine).encode()) or ()]
            if turn > 0 and parts:
                row: dict[str, Any] = {"kilobytes": size, "topology": name, "encode": parts[0]["encode"]}
                row |= {"work": max(p["work"] for p in parts), "moving": min(p["moving"] for p in parts)}
                rows.append(row | {"wall": max(p["wall"] for p in parts)})
    return rows


def _simulation(channel: Channel, point: Point, folder: Path) -> Simulation:
    """Return a federation before its first round."""
    checked, device = preflight.check(parse_run(point.run())), torch.device("cpu")
    config, num_types = checked.config, len(checked.model_types)
    placement = spread(num_types, channel.num_ranks)
    if channel.mpi_rank == 0:
        folder.mkdir()
    channel.barrier()
    federation = Federation(
        config=config,
        channel=channel,
        model_types=checked.model_types,
        clients=checked.clients,
        data=checked.data,
        public=preflight.public_rows(checked),
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
