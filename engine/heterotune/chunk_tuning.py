"""`chunk.clients: auto`: how many clients of a model type to train in one pass, by a short measurement.

More clients in a pass share one stream of the weights, until their activations no longer fit the cache or the memory;
and a chunk is the unit of work for a rank, so too large chunks leave ranks idle. What was picked goes into the run
folder and a cache, because a chunk's composition is part of what makes a result reproducible.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

from heterotune import __version__
from heterotune.adapters.bank import stack_clients
from heterotune.collective.channel import ROOT, Channel
from heterotune.fleet.chunks import Chunk
from heterotune.fleet.clients import Client, cohort_counts
from heterotune.profiling.memory import ResidentPeak
from heterotune.randomness import NO_CLIENT
from heterotune.simulation import Simulation
from heterotune.training.local import train_chunk
from heterotune.training.objective import ChunkBatch

TIMED_PASSES = 5
MEMORY_SHARE = 0.8
"""A larger chunk is not tried if what it would add is more than this share of the memory that is free."""
MARGIN = 0.03
"""A larger chunk must promise to be faster by this share: measurements are noisy, and small chunks balance better."""


@dataclass(frozen=True)
class Trial:
    """What a pass of a chunk of this many clients took at its best, in seconds."""

    num_clients: int
    seconds_per_pass: float


def pick_chunk_clients(simulation: Simulation) -> dict[int, int]:
    """Return the clients per chunk of every model type. Every rank must call this; every rank gets the root's picks.

    Args:
        simulation: Ready to train; nothing of it is changed.
    """
    chosen = simulation.config.chunk
    counts = cohort_counts(simulation.federation.population, simulation.config.cohort)
    picks = {}
    for place, model_type in enumerate(simulation.federation.model_types):
        if model_type.name in chosen.of_type:
            picks[place] = chosen.of_type[model_type.name]
        elif chosen.clients != "auto":
            picks[place] = chosen.clients
        else:
            picks[place] = _pick(simulation, place, max(1, counts.get(place, 0)))
    return picks


def fastest(trials: list[Trial], num_in_cohort: int, num_ranks: int) -> int:
    """Return the chunk size that finishes a cohort soonest, the smaller one if the gain is within `MARGIN`."""
    best, best_seconds = trials[0].num_clients, float("inf")
    for trial in trials:
        num_chunks = -(-num_in_cohort // trial.num_clients)
        seconds = -(-num_chunks // num_ranks) * trial.seconds_per_pass
        if seconds < best_seconds * (1.0 - MARGIN):
            best, best_seconds = trial.num_clients, seconds
    return best


def candidates(num_in_cohort: int, num_ranks: int, max_clients: int) -> list[int]:
    """Return the chunk sizes to try: 1, 2, 4, ... up to the one that gives every rank one chunk."""
    limit = min(-(-num_in_cohort // num_ranks), max_clients)
    return sorted({2**power for power in range(limit.bit_length())} | {limit})


def _pick(simulation: Simulation, place: int, num_in_cohort: int) -> int:
    channel, key = simulation.channel, _cache_key(simulation, place, num_in_cohort)
    cache = Cache(channel)
    known = cache.read(key)
    if known:
        return known
    holders = simulation.federation.placement.ranks_of_type[place]
    sizes = candidates(num_in_cohort, len(holders), simulation.config.chunk.max_clients)
    trials = _measure(lambda size: _seconds_per_pass(simulation, place, size), sizes, channel, holders[0])
    pick = fastest(trials, num_in_cohort, len(holders))
    cache.write(key, pick)
    what = {
        "name": "chunk/seconds_per_client",
        "model_type": simulation.federation.model_types[place].name,
        "unit": "s/pass",
    }
    entries = [{**what, "chunk": t.num_clients, "value": t.seconds_per_pass / t.num_clients} for t in trials]
    simulation.journal.metrics(0, entries)
    return pick


def _measure(
    seconds_per_pass: Callable[[int], float], sizes: list[int], channel: Channel, first_holder: int
) -> list[Trial]:
    """Try sizes from small to large, as far as memory lets; the first holder's clock and memory decide for all."""
    trials: list[Trial] = []
    for size in sizes:
        memory = AddedMemory()
        seconds = seconds_per_pass(size)
        added = memory.peak_bytes()
        # The next size needs about twice as much; every rank of this node does the same.
        verdict = np.array([seconds, float(2 * added * channel.num_ranks > MEMORY_SHARE * _free_bytes())])
        channel.broadcast(verdict, first_holder)
        trials.append(Trial(size, float(verdict[0])))
        if verdict[1]:
            break
    return trials


def _seconds_per_pass(simulation: Simulation, place: int, num_clients: int) -> float:
    """Train a chunk of made-up clients on full rows and return the seconds of its fastest pass.

    The fastest, because other programs on the machine can only make a pass slower. Every rank that holds the type
    makes the same passes; 0 elsewhere.
    """
    if place not in simulation.federation.backbones:
        return 0.0
    layout, backbone, config = simulation.layouts[place], simulation.federation.backbones[place], simulation.config
    personal = [simulation.store.load(NO_CLIENT, layout)] * num_clients
    bank = stack_clients(
        layout,
        simulation.adapters.held_by(place),
        personal,
        device=backbone.device,
        head_frame=simulation.head.frames[place],
    )
    shape = (num_clients * config.local.batch_size, config.data.max_tokens)
    ids_RT = torch.arange(shape[0] * shape[1], device=backbone.device).view(shape) % backbone.model_type.vocab_size
    num_targets_K = torch.full((num_clients,), shape[0] * shape[1] // num_clients, device=backbone.device)
    batch = ChunkBatch(ids_RT, ids_RT, num_targets_K)
    clients = tuple(Client(number, place, 1) for number in range(num_clients))
    chunk = Chunk(place, clients, (1,) * num_clients)
    rule, seconds = simulation.training.rule(place, 1), []
    for _ in range(1 + TIMED_PASSES):
        started = time.perf_counter()
        train_chunk(backbone, simulation.attached[place], bank, chunk, [batch], config.local, rule)
        if backbone.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


class Cache:
    """What was picked before on this kind of machine, in the user's cache folder; only the root reads and writes it."""

    def __init__(self, channel: Channel) -> None:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._path = folder / "heterotune" / "chunk_clients.json"
        self._channel = channel

    def read(self, key: str) -> int:
        """Return what was picked, 0 if nothing. Every rank must call this."""
        pick = np.zeros(1, dtype=np.int64)
        if self._channel.mpi_rank == ROOT:
            pick[0] = self._known().get(key, 0)
        self._channel.broadcast(pick)
        return int(pick[0])

    def write(self, key: str, pick: int) -> None:
        """Keep a pick (root only; nothing elsewhere)."""
        if self._channel.mpi_rank != ROOT:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps({**self._known(), key: pick}, indent=1))
            os.replace(temporary, self._path)
        except OSError:
            return  # a home that cannot be written to only costs the next run a measurement

    def _known(self) -> dict[str, int]:
        try:
            known = json.loads(self._path.read_text())
        except (OSError, json.JSONDecodeError):
            return {}
        is_ours = isinstance(known, dict) and all(isinstance(pick, int) and pick > 0 for pick in known.values())
        return known if is_ours else {}


def _cache_key(simulation: Simulation, place: int, num_in_cohort: int) -> str:
    """Return a digest of all that a pick depends on."""
    config, federation = simulation.config, simulation.federation
    machine = torch.cuda.get_device_name() if federation.device.type == "cuda" else _cpu_name()
    num_holders = len(federation.placement.ranks_of_type[place])
    facts = (
        __version__, torch.__version__, machine, torch.get_num_threads(), num_holders, num_in_cohort,
        federation.model_types[place].source.llama, config.backbone.model_dump(), config.data.max_tokens,
        config.local.model_dump(), config.chunk.max_clients, [spec.shape for spec in simulation.layouts[place].tensors],
    )  # fmt: skip
    return hashlib.sha256(json.dumps(facts, default=str, sort_keys=True).encode()).hexdigest()[:32]


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "cpu"
    return next((line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")), "cpu")


class AddedMemory:
    """The peak of what this process takes beyond what it had at the start, on the GPU if there is one."""

    def __init__(self) -> None:
        self._resident = ResidentPeak()
        self._resident.start()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._before_bytes = self._now_bytes()

    def peak_bytes(self) -> int:
        """Return the peak since the start, less what there was."""
        resident_bytes = self._resident.stop()
        peak_bytes = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resident_bytes
        return max(0, peak_bytes - self._before_bytes)

    @staticmethod
    def _now_bytes() -> int:
        return torch.cuda.memory_allocated() if torch.cuda.is_available() else psutil.Process().memory_info().rss


def _free_bytes() -> int:
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else psutil.virtual_memory().available
