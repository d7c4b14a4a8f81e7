"""Runs a checked run's strategies one after the other on the same federation and writes what remains of them."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import save_file

from heterotune.adapters.bank import HeadFrame
from heterotune.backbone.load import pick_dtype
from heterotune.checkpoint import checkpoint_name, read_checkpoint
from heterotune.chunk_tuning import pick_chunk_clients
from heterotune.collective.channel import ROOT, Channel
from heterotune.collective.roll_call import nodes_of_ranks
from heterotune.config.schema import RunConfig
from heterotune.data.questions import questions_of_types
from heterotune.errors import CheckpointError
from heterotune.federation import Federation, load_backbones
from heterotune.journal import Journal
from heterotune.memory_attribution import attribute_federation
from heterotune.placing import place_fleet, setting_of_job
from heterotune.planning.plan import PLANNED_STRATEGIES, estimate_memory
from heterotune.preflight import CheckedRun
from heterotune.profiling.process_memory import ProcessMemory
from heterotune.profiling.timing import Stopwatch
from heterotune.report.tensorboard import FOLDER, TensorboardScalars
from heterotune.resuming import Part, parts_of_run
from heterotune.run_folder import CHECKPOINTS_FOLDER, RunFolder
from heterotune.server import GlobalAdapters
from heterotune.simulation import Simulation
from heterotune.strategies import make_strategy
from heterotune.summary import environment, summarise

LOG = logging.getLogger(__name__)


def run_strategies(
    checked: CheckedRun,
    channel: Channel,
    device: torch.device,
    folder: RunFolder,
    startup: Stopwatch,
    *,
    resume: bool = False,
    stop_wanted: Callable[[], bool] = lambda: False,
    runtime: ProcessMemory | None = None,
) -> None:
    """Run `strategy` and then each of `compare_with`. Every rank must call this.

    Args:
        checked: The run.
        channel: The ranks.
        device: Where this rank computes.
        folder: The run folder; comparisons go to folders in it.
        startup: What this process spent its time on before; goes into the summary.
        resume: Go on from the newest checkpoints in the run folder; what was not begun begins.
        stop_wanted: Whether this rank was asked to stop; asked after every chunk.
        runtime: This process before it loaded anything; None = as it is now.

    Raises:
        RunStopped: If some rank was asked to stop; all is saved.
    """
    config, placement = place_fleet(_picked(checked.config), checked.model_types, channel)
    parts = parts_of_run(config, folder, channel, resume=resume)
    names = [model_type.name for model_type in checked.model_types]
    journals = [
        Journal(part.folder, channel, names, part.strategy, config.rounds, stop_wanted, runtime) for part in parts
    ]
    with startup.phase("backbones"), journals[0].phase("load"):
        federation = Federation(
            config=config,
            channel=channel,
            model_types=checked.model_types,
            population=checked.population,
            data=checked.data,
            public=checked.public,
            placement=placement,
            backbones=load_backbones(checked.model_types, config, channel, device, folder.path, placement),
            device=device,
            data_of_type=checked.data_of_type,
            questions_of_type=questions_of_types(
                checked.data_of_type, checked.tokenizers, config.data, config.evaluate
            ),
            label_tokens=checked.label_tokens,
        )
        for journal in journals:
            attribute_federation(journal.memory, federation)
    summaries, chunk_clients = {}, _known_chunk_clients(parts)
    for part, journal in zip(parts, journals, strict=True):
        if part.summary is not None:
            summaries[part.strategy] = part.summary
            continue
        journal.scalars = _scalars(config, part, channel)
        with startup.phase("adapters, alignment"):
            simulation = Simulation(federation, make_strategy(part.strategy, config), journal, part.saved)
        if chunk_clients is None:
            with startup.phase("chunk sizes"):
                chunk_clients = pick_chunk_clients(simulation)
        if journal.is_root and part is parts[0]:
            folder.write_config(_with_chunks(federation, chunk_clients), environment(channel.name, channel.num_ranks))
        journal.expect(_estimates(federation, part.strategy, chunk_clients))
        summaries[part.strategy] = _run_one(simulation, chunk_clients, startup)
        startup = Stopwatch()
    if channel.mpi_rank == ROOT:
        compare = {name: summaries[name] for name in config.compare_with}
        folder.write_summary({**summaries[config.strategy], "compare": compare})
        last = (config.strategy, *config.compare_with)[-1]
        folder.status({"state": "done", "strategy": last, "round": config.rounds, "rounds": config.rounds})


def _estimates(
    federation: Federation, strategy: str, chunk_clients: dict[int, int]
) -> list[dict[tuple[str, str], int]]:
    """Return what a plan of this run says of each rank's memory; nothing where it cannot. Every rank must call this.

    Ranks that hold the same model types are told the same: what the first of them needs.
    """
    if strategy not in PLANNED_STRATEGIES:
        return []
    config = federation.config.model_copy(update={"strategy": strategy})
    nodes, crew_of_rank = nodes_of_ranks(federation.channel, os.environ), federation.placement.crew_of_rank
    setting = setting_of_job(config, federation.model_types, nodes)
    of_crew = [
        estimate_memory(setting, chunk_clients, mpi_rank=crew_of_rank.index(crew))
        for crew in range(len(federation.placement.crews))
    ]
    return [of_crew[crew] for crew in crew_of_rank]


def _scalars(config: RunConfig, part: Part, channel: Channel) -> TensorboardScalars | None:
    """Return where a strategy's scalars go, at the root of a run that wants them."""
    if not config.tensorboard or channel.mpi_rank != ROOT:
        return None
    first_round = 0 if part.saved is None else part.saved.round_number + 1
    return TensorboardScalars(part.folder.status_folder / FOLDER / part.strategy, first_round=first_round)


def _run_one(simulation: Simulation, chunk_clients: dict[int, int], startup: Stopwatch) -> dict[str, Any]:
    """Run one strategy; returns its summary at the root, an empty one elsewhere."""
    journal, config = simulation.journal, simulation.config
    simulation.chunk_clients = chunk_clients
    if simulation.checkpoints.saved_round is None and config.evaluate.before_first:
        with startup.phase("first evaluation"):
            simulation.evaluate(0)
    journal.write_memory()
    if simulation.checkpoints.saved_round is None:
        simulation.checkpoint(stop_wanted=False)
    simulation.run()
    simulation.close()
    if journal.scalars is not None:
        journal.scalars.close()
    if not journal.is_root:
        return {}
    _save_adapters(simulation, "adapters", simulation.adapters, simulation.head.frames, {})
    _save_best_adapters(simulation)
    summary = summarise(
        journal,
        simulation.adapters,
        simulation.federation.model_types,
        startup_seconds=startup.drain(),
        dtype=config.backbone.dtype,
    )
    summary |= simulation.clock.summary()
    journal.run_folder.write_summary(summary)
    return summary


def _known_chunk_clients(parts: Sequence[Part]) -> dict[int, int] | None:
    """Return the chunk sizes that an earlier job of this run picked: all its strategies train the same chunks."""
    saved = next((part.saved for part in parts if part.saved is not None), None)
    return None if saved is None else dict(enumerate(saved.facts["chunk_clients"]))


def _picked(config: RunConfig) -> RunConfig:
    """Return the run with the threads, the dtype and the wire down that "auto" means here."""
    backbone = config.backbone.model_copy(update={"dtype": pick_dtype(config.backbone.dtype)})
    collective = config.collective.model_copy(update={"wire_down": config.collective.picked_wire_down})
    picked = {"threads_per_rank": torch.get_num_threads(), "backbone": backbone, "collective": collective}
    return config.model_copy(update=picked)


def _with_chunks(federation: Federation, chunk_clients: dict[int, int]) -> RunConfig:
    """Return the run with the clients per chunk of every model type."""
    chunk = federation.config.chunk
    of_type = {model_type.name: chunk_clients[model_type.index] for model_type in federation.model_types}
    return federation.config.model_copy(update={"chunk": chunk.model_copy(update={"of_type": of_type})})


def _save_best_adapters(simulation: Simulation) -> None:
    """Write the adapters of the best checkpoint, too."""
    best, folder = simulation.checkpoints.best, simulation.journal.folder
    if best is None:
        return
    adapters = GlobalAdapters(simulation.layouts, run_seed=simulation.config.seed)
    try:
        saved = read_checkpoint(folder / CHECKPOINTS_FOLDER / checkpoint_name(best["round"]))
    except CheckpointError as error:
        LOG.warning("%s No adapters of the best round are written.", error)
        return
    adapters.take_over(saved, simulation.config.collective.picked_wire_down)
    _save_adapters(simulation, "adapters-best", adapters, simulation.head.saved_frames(saved.tensors), best)


def _save_adapters(
    simulation: Simulation,
    folder: str,
    adapters: GlobalAdapters,
    frames: Sequence[HeadFrame | None],
    facts: Mapping[str, Any],
) -> None:
    """Write every model type's shared tensors as safetensors, whole or not at all."""
    for place, model_type in enumerate(simulation.federation.model_types):
        base = {f"{path}.base": change for path, change in adapters.base.of_model_type(place).items()}
        tensors = adapters.of_model_type(place) | base
        frame = frames[place]
        if frame is not None:
            tensors |= {"head.V": frame.down_RD, "head.mean": frame.mean_D, "head.Q": frame.basis_QV}
        whole = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        with simulation.journal.run_folder.writing(f"{folder}/{model_type.name}.safetensors") as path:
            # One entry: safetensors writes several in no fixed order, and equal runs should leave equal files.
            about = {"strategy": simulation.strategy.name, "model_type": model_type.name, **facts}
            save_file(whole, path, metadata={"heterotune": json.dumps(about)})
