"""Runs a checked run's strategies one after the other on the same federation and writes what remains of them."""

from __future__ import annotations

import json
import time
from typing import Any

import torch
from safetensors.torch import save_file

from heterotune.backbone.load import pick_dtype
from heterotune.chunk_tuning import pick_chunk_clients
from heterotune.collective.channel import Channel
from heterotune.config.schema import RunConfig
from heterotune.federation import Federation, load_backbones
from heterotune.journal import Journal
from heterotune.preflight import CheckedRun, public_rows
from heterotune.profiling.timing import Stopwatch
from heterotune.run_folder import RunFolder
from heterotune.simulation import Simulation
from heterotune.strategies import make_strategy
from heterotune.summary import environment, summarise


def run_strategies(
    checked: CheckedRun, channel: Channel, device: torch.device, folder: RunFolder, startup: Stopwatch
) -> None:
    """Run `strategy` and then each of `compare_with`. Every rank must call this.

    Args:
        checked: The run.
        channel: The ranks.
        device: Where this rank computes.
        folder: The run folder; comparisons go to folders in it.
        startup: What this process spent its time on before; goes into the summary.
    """
    config = checked.config
    names = [model_type.name for model_type in checked.model_types]
    journal = Journal(folder, channel, names, config.strategy, config.rounds)
    with startup.phase("backbones"), journal.phase("load"):
        federation = Federation(
            config=config,
            channel=channel,
            model_types=checked.model_types,
            clients=checked.clients,
            data=checked.data,
            public=public_rows(checked),
            backbones=load_backbones(checked.model_types, config, channel, device, folder.path),
            device=device,
        )
    with startup.phase("adapters, alignment"):
        simulation = Simulation(federation, make_strategy(config.strategy, config), journal)
    with startup.phase("chunk sizes"):
        chunk_clients = pick_chunk_clients(simulation)
    if journal.is_root:
        folder.write_config(_resolved(federation, chunk_clients), environment(channel.name, channel.num_ranks))
    summary = _run_one(simulation, chunk_clients, startup)
    comparisons = {}
    for name in config.compare_with:
        startup = Stopwatch()
        beside = Journal(folder.subfolder("compare").subfolder(name), channel, names, name, config.rounds)
        with startup.phase("adapters, alignment"):
            simulation = Simulation(federation, make_strategy(name, config), beside)
        comparisons[name] = _run_one(simulation, chunk_clients, startup)
    if journal.is_root:
        folder.write_summary({**summary, "compare": comparisons})
        last = (config.strategy, *config.compare_with)[-1]
        folder.status({"state": "done", "strategy": last, "round": config.rounds, "rounds": config.rounds})


def _run_one(simulation: Simulation, chunk_clients: dict[int, int], startup: Stopwatch) -> dict[str, Any]:
    """Run one strategy; returns its summary at the root, an empty one elsewhere."""
    journal, config = simulation.journal, simulation.config
    simulation.chunk_clients = chunk_clients
    begun = time.perf_counter()
    with startup.phase("first evaluation"):
        simulation.evaluate(0)
    simulation.run()
    simulation.close()
    if not journal.is_root:
        return {}
    _save_adapters(simulation)
    summary = summarise(
        journal,
        simulation.adapters,
        simulation.federation.model_types,
        seconds=time.perf_counter() - begun,
        startup_seconds=startup.drain(),
        dtype=config.backbone.dtype,
    )
    journal.run_folder.write_summary(summary)
    return summary


def _resolved(federation: Federation, chunk_clients: dict[int, int]) -> RunConfig:
    """Return the run with every "auto" replaced by what was picked."""
    config = federation.config
    of_type = {model_type.name: chunk_clients[model_type.index] for model_type in federation.model_types}
    return config.model_copy(
        update={
            "threads_per_rank": torch.get_num_threads(),
            "backbone": config.backbone.model_copy(update={"dtype": pick_dtype(config.backbone.dtype)}),
            "chunk": config.chunk.model_copy(update={"of_type": of_type}),
        }
    )


def _save_adapters(simulation: Simulation) -> None:
    """Write every model type's shared tensors as safetensors, whole or not at all."""
    for place, model_type in enumerate(simulation.federation.model_types):
        tensors = simulation.adapters.of_model_type(place)
        frame = simulation.frames[place]
        if frame is not None:
            tensors |= {"head.V": frame.down_RD, "head.mean": frame.mean_D, "head.Q": frame.basis_QV}
        whole = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        with simulation.journal.run_folder.writing(f"adapters/{model_type.name}.safetensors") as path:
            # One entry: safetensors writes several in no fixed order, and equal runs should leave equal files.
            about = {"strategy": simulation.strategy.name, "model_type": model_type.name}
            save_file(whole, path, metadata={"heterotune": json.dumps(about)})
