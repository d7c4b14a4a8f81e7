"""Measures the way from trained updates to new values on all ranks, against plain mpi4py calls on the same bytes.

python tools/benchmarks/collective.py [--ranks 2] [--megabytes 8 64 256] [--turns 5] [--output docs/results/...csv]
python tools/benchmarks/collective.py --large      # more than 2 GiB in one call of a verb; needs 12 GB of memory

What is called a round: clients' updates are there -> encode -> decode -> exact sums -> gather -> combine (CMGA) ->
broadcast -> decode. `megabytes` are those of the clients' fp32 updates on each rank, and as many come down again.
Plain is one Gather of these bytes to the root and one Bcast of as many from it, by mpi4py from and into memory that is
there, and nothing else: no sum, no combining. A round moves more: updates become int64 for the exact sum, twice their
bytes. The ratio counts clients' bytes on both sides. A verb alone is compared with the library's call for its bytes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parent))

from ranks import REPOSITORY, open_ranks, run_worker  # noqa: E402

MEGABYTE = 1 << 20
LARGE_BYTES = (9 << 30) // 4  # 2.25 GiB
TYPES = ("a", "b")


def main() -> None:
    """Measure in fresh processes and write the table; in a rank, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "docs" / "results" / "collective.csv")
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer is not None:
        _be_a_rank(options)
        return
    arguments = [f"--turns={options.turns}", "--megabytes", *map(str, options.megabytes)]
    rows = run_worker(Path(__file__), [*arguments, *["--large"] * options.large], num_ranks=options.ranks)
    for row in rows:
        print(json.dumps(row))
    if not options.large:
        from tables import write_table

        notes = [line for line in __doc__.splitlines()[5:] if line]
        write_table(options.output, rows, notes)


def _be_a_rank(options: argparse.Namespace) -> None:
    channel = open_ranks()
    if options.large:
        rows = [_large(channel)]
    else:
        rows = [row for megabytes in options.megabytes for row in _measure(channel, megabytes, options.turns)]
    if channel.mpi_rank == 0:
        options.answer.write_text(json.dumps(rows))
    channel.close()


def _measure(channel: Any, megabytes: int, turns: int) -> list[dict[str, Any]]:
    """Return the rows of one size: every contender once a turn, after a turn that does not count."""
    num_bytes = megabytes * MEGABYTE
    plain, verbs = _plain_calls(channel, num_bytes), _verbs(channel, num_bytes)
    rounds = {name: CollectiveRound(channel, num_bytes, name) for name in ("root", "sharded")}
    calls = plain | verbs | {f"round {name}": one.run for name, one in rounds.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(turns + 1):
        for name, call in calls.items():
            channel.barrier()
            started = time.perf_counter()
            call()
            channel.barrier()
            if turn > 0:
                seconds[name].append(time.perf_counter() - started)
    digests = {channel.broadcast_bytes(one.adapters.sha256().encode()).decode() for one in rounds.values()}
    assert len(digests) == 1 == len({one.adapters.sha256() for one in rounds.values()}), "the topologies differ"
    pairs = {f"round {name}": ("plain Gather", "plain Bcast") for name in rounds}
    pairs |= {
        "broadcast": ("plain Bcast",),
        "gather_bytes": ("plain Gather",),
        "sum_to_root": ("plain Reduce",),
        "reduce_scatter": ("plain Reduce_scatter",),
        "all_gather": ("plain Allgather",),
    }
    rows = [_row(channel.num_ranks, megabytes, what, seconds, against) for what, against in pairs.items()]
    if channel.mpi_rank == 0:
        for name, one in rounds.items():
            parts = {part: round(statistics.median(values[1:]), 4) for part, values in one.seconds.items()}
            print(f"{megabytes} MB, {name}: seconds at the root by part: {parts}", file=sys.stderr)
    return rows


def _row(
    num_ranks: int, megabytes: int, what: str, seconds: dict[str, list[float]], against: Sequence[str]
) -> dict[str, Any]:
    """Return a line of the table; ratios are made within a turn."""
    plain = [sum(parts) for parts in zip(*(seconds[name] for name in against), strict=True)]
    moved = len(against) * megabytes * MEGABYTE
    median = statistics.median(seconds[what])
    return {
        "ranks": num_ranks,
        "megabytes": megabytes,
        "what": what,
        "seconds": f"{median:.4f}",
        "fastest": f"{min(seconds[what]):.4f}",
        "slowest": f"{max(seconds[what]):.4f}",
        "plain": " + ".join(name.removeprefix("plain ") for name in against),
        "plain_seconds": f"{statistics.median(plain):.4f}",
        "GB_per_second": f"{moved / median / 1e9:.2f}",
        "share_of_plain": f"{statistics.median(p / s for p, s in zip(plain, seconds[what], strict=True)):.2f}",
    }


def _plain_calls(channel: Any, num_bytes: int) -> dict[str, Callable[[], object]]:
    """Return the library's own calls, from and into memory that is there."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    mine = np.ones(num_bytes, np.uint8)
    all_N = np.ones(num_bytes * channel.num_ranks, np.uint8)
    numbers, result = mine.view(np.int64), np.ones(num_bytes // 8, np.int64)
    slice_ = np.ones(num_bytes // 8 // channel.num_ranks, np.int64)
    part = mine[: num_bytes // channel.num_ranks]
    return {
        "plain Bcast": lambda: comm.Bcast(mine),
        "plain Gather": lambda: comm.Gather(mine, all_N if channel.mpi_rank == 0 else None),
        "plain Reduce": lambda: comm.Reduce(numbers, result if channel.mpi_rank == 0 else None),
        "plain Reduce_scatter": lambda: comm.Reduce_scatter_block(numbers[: slice_.size * comm.size], slice_),
        "plain Allgather": lambda: comm.Allgather(part, all_N[: part.size * comm.size]),
    }


def _verbs(channel: Any, num_bytes: int) -> dict[str, Callable[[], object]]:
    """Return the channel's verbs on the same number of bytes."""
    array, data = np.ones(num_bytes // 8, np.int64), bytes(num_bytes)
    bounds = [array.size * mpi_rank // channel.num_ranks for mpi_rank in range(channel.num_ranks + 1)]
    return {
        "broadcast": lambda: channel.broadcast(array),
        "gather_bytes": lambda: channel.gather_bytes(data),
        "sum_to_root": lambda: channel.sum_to_root(array),
        "reduce_scatter": lambda: channel.reduce_scatter(array, bounds),
        "all_gather": lambda: channel.all_gather(array, bounds),
    }


class CollectiveRound:
    """A round of two model types, one client of each on every rank; half of an adapter is shared by both types."""

    def __init__(
        self, channel: Any, num_bytes: int, topology: str, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        import torch

        from heterotune.adapters.layout import AdapterLayout, TensorSpec
        from heterotune.aggregation.round_sums import RoundSums
        from heterotune.collective.ledger import Ledger
        from heterotune.config.heterotune_options import HeterotuneOptions
        from heterotune.downlink import Downlink
        from heterotune.fleet.chunks import Chunk
        from heterotune.fleet.clients import Client
        from heterotune.server import GlobalAdapters
        from heterotune.strategies.heterotune import combine_aligned
        from heterotune.topology import make_topology
        from heterotune.training.local import TrainedChunk

        size = num_bytes // 4 // len(TYPES) // 2
        shared = TensorSpec("head.S", (size,), "fleet", "fleet/head.S", "dema.head", "head")
        self.layouts = [
            AdapterLayout(name, (TensorSpec("w.V", (size,), "type", f"type/{name}/w.V", "dema.type", "0"), shared))
            for name in TYPES
        ]
        self.channel, self.ledger, self._clock = channel, Ledger(), clock
        self.combine = partial(combine_aligned, options=HeterotuneOptions())
        self.weight_K = torch.tensor([1 / channel.num_ranks], dtype=torch.float64)
        self.adapters = GlobalAdapters(self.layouts, run_seed=0)
        self.sums = RoundSums([layout.num_travelling for layout in self.layouts])
        self.topology = make_topology(topology, self.adapters, channel)
        self.downlink = Downlink(self.layouts, [None] * len(TYPES))
        self.trained = []
        for place, layout in enumerate(self.layouts):
            client_id = place * channel.num_ranks + channel.mpi_rank
            draw = torch.Generator().manual_seed(client_id)
            update_KP = torch.randn(1, layout.num_columns, generator=draw)
            chunk = Chunk(place, (Client(client_id, place, num_rows=1),), (1,))
            self.trained.append(TrainedChunk(chunk, update_KP, update_KP, torch.zeros(1), torch.zeros(1)))
        self.seconds: dict[str, list[float]] = {part: [] for part in ("encode", "gather", "combine", "broadcast")}
        self.topology.broadcast(self.downlink, "fp32", 1)

    def run(self) -> None:
        """Run a round from trained updates to new values on all ranks."""
        from heterotune.client_store import ClientStore
        from heterotune.config.engine_options import CollectiveConfig
        from heterotune.strategies.strategy import ServerRound
        from heterotune.topology import CohortCounts
        from heterotune.uplink import send_updates

        places, num_ranks = range(len(TYPES)), self.channel.num_ranks
        started = self._clock()
        for place, exact in self.sums.begin(places).items():
            send_updates(
                self.trained[place],
                self.layouts[place],
                exact,
                self.ledger,
                round_number=1,
                weight_K=self.weight_K,
                wire=CollectiveConfig(),
                run_seed=0,
                store=ClientStore(Path("unused"), run_seed=0),
            )
        started = self._note("encode", started)
        counts = dict.fromkeys(places, num_ranks)
        updates = self.topology.gather(self.sums, CohortCounts(counts, counts))
        started = self._note("gather", started)
        if updates is not None:
            server = ServerRound(tensors=self.adapters.tensors, grams=self.topology.grams)
            combined = self.combine(updates, server)
            self.topology.apply(combined.change)
        started = self._note("combine", started)
        self.topology.broadcast(self.downlink, "fp32", 1)
        self._note("broadcast", started)

    def _note(self, part: str, started: float) -> float:
        now = self._clock()
        self.seconds[part].append(now - started)
        return now


def _large(channel: Any) -> dict[str, Any]:
    """Move more than 2 GiB in one call of each verb on arrays, and check every number."""
    array = np.full(LARGE_BYTES // 8, channel.mpi_rank + 1, np.int64)
    bounds = [array.size * mpi_rank // channel.num_ranks for mpi_rank in range(channel.num_ranks + 1)]
    total = channel.num_ranks * (channel.num_ranks + 1) // 2
    seconds = {}
    for name, expected in {
        "sum_to_root": total,
        "broadcast": total,
        "reduce_scatter": None,
        "all_gather": None,
    }.items():
        started = time.perf_counter()
        getattr(channel, name)(*(array, bounds) if expected is None else (array,))
        seconds[name] = round(time.perf_counter() - started, 2)
        if name == "broadcast":
            assert (array == total).all(), "a wrong number came"
            array.fill(channel.mpi_rank + 1)
    assert (array == total).all(), "a wrong number came"
    return {"ranks": channel.num_ranks, "bytes": array.nbytes, "seconds": seconds}


if __name__ == "__main__":
    main()
