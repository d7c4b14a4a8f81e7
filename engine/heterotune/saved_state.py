"""The state of a simulation between rounds: what a checkpoint holds of it, and how a run goes on from one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from heterotune.adapters.layout import AdapterLayout
from heterotune.checkpoint import Checkpoint
from heterotune.checkpointing import Checkpointing
from heterotune.client_store import CLIENTS_FOLDER, ClientStore
from heterotune.collective.channel import ROOT, Channel
from heterotune.config.schema import RunConfig
from heterotune.downlink import Downlink
from heterotune.fleet.cohort_selection import CohortSelection
from heterotune.head_maps import HeadMaps
from heterotune.journal import Journal
from heterotune.protection import Protection
from heterotune.round_progress import RoundProgress
from heterotune.server import GlobalAdapters
from heterotune.strategies.strategy import Strategy
from heterotune.virtual_time.round_clock import RoundClock

_SERVER, _SELECTION = "server/", "selection/"


class HasState(Protocol):
    """What of a simulation outlives a round, and where it is kept."""

    config: RunConfig
    strategy: Strategy
    layouts: Sequence[AdapterLayout]
    channel: Channel
    journal: Journal
    rounds_done: int
    chunk_clients: dict[int, int]
    pass_seconds: list[float]
    adapters: GlobalAdapters
    head: HeadMaps
    server_state: Mapping[str, torch.Tensor]
    store: ClientStore
    downlink: Downlink
    selection: CohortSelection
    clock: RoundClock
    protection: Protection
    progress: RoundProgress
    checkpoints: Checkpointing


def state_of(simulation: HasState) -> Checkpoint:
    """Return what `forget_what_came_after` and `go_on_from` need. The root calls this."""
    sim = simulation
    tensors = {f"values/{key}": value.clone() for key, value in sim.adapters.exact.items()}
    tensors |= sim.head.state()
    tensors |= {_SERVER + name: value.clone() for name, value in sim.server_state.items()}
    tensors |= {key: value.clone() for key, value in sim.adapters.base.values.items()}
    tensors |= sim.downlink.state()
    tensors |= {_SELECTION + name: torch.from_numpy(array) for name, array in sim.selection.arrays().items()}
    facts = {
        "strategy": sim.strategy.name,
        "config": sim.config.model_dump(mode="json"),
        "chunk_clients": [sim.chunk_clients[place] for place in range(len(sim.layouts))],
        "pass_seconds": sim.pass_seconds,
        "journal": sim.journal.state(),
        "best": sim.checkpoints.best,
        "protection": sim.protection.state(),
        "clock": sim.clock.state(),
        "drawn_seconds": sim.selection.drawn_seconds,
    }
    return Checkpoint(sim.rounds_done, tensors, facts, sim.journal.folder / CLIENTS_FOLDER, sim.clock.held_folder)


def forget_what_came_after(simulation: HasState, saved: Checkpoint | None) -> None:
    """Leave of an earlier attempt what was there when it saved, else nothing. Every rank must call this."""
    if simulation.channel.mpi_rank == ROOT:
        simulation.store.replace_with(None if saved is None else saved.clients)
        simulation.clock.replace_held(None if saved is None else saved.in_flight)
    simulation.progress.go_on_after(None if saved is None else saved.round_number)
    simulation.journal.restore({} if saved is None else saved.facts["journal"])
    simulation.channel.barrier()


def go_on_from(simulation: HasState, saved: Checkpoint) -> None:
    """Take over a saved state; the head's maps are taken over before."""
    simulation.rounds_done, simulation.pass_seconds = saved.round_number, saved.facts["pass_seconds"]
    simulation.checkpoints.go_on_from(saved)
    simulation.protection.restore(saved.facts.get("protection", {}))
    simulation.clock.restore(saved.facts.get("clock", {}))
    simulation.adapters.restore(saved)
    simulation.server_state = _of_kind(_SERVER, saved)
    simulation.downlink.restore(saved.tensors, simulation.adapters.base)
    arrays = {name: value.numpy() for name, value in _of_kind(_SELECTION, saved).items()}
    simulation.selection.restore(arrays, saved.facts.get("drawn_seconds"))


def _of_kind(prefix: str, saved: Checkpoint) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin so, by the rest of their names."""
    return {k.removeprefix(prefix): value for k, value in saved.tensors.items() if k.startswith(prefix)}
