"""A federation under several modes of the virtual clock in one job, each straight through or stopped and resumed.

python virtual_clock.py RUN.yaml FOLDER ROUNDS_BEFORE_RESUMING MODE...
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from wire_codecs import load

from heterotune.checkpoint import newest_checkpoint
from heterotune.collective.opening import open_channel
from heterotune.config.clock_options import ClockOptions
from heterotune.config.privacy_options import SecureAggregationOptions
from heterotune.federation import Federation
from heterotune.journal import Journal
from heterotune.run_folder import RunFolder
from heterotune.simulation import Simulation
from heterotune.strategies import make_strategy

MODES = {
    "none": ClockOptions(),
    "synchronous": ClockOptions(mode="synchronous"),
    "masked": ClockOptions(mode="synchronous"),
    "patient": ClockOptions(mode="deadline", deadline_seconds=1e6),
    "accept": ClockOptions(mode="deadline", deadline_seconds=0.9, late="accept"),
    "buffered": ClockOptions(mode="buffered", concurrency=5, buffer=2),
}


def run_rounds(federation: Federation, folder: RunFolder, rounds: int) -> dict[str, object]:
    """Go on to the end of a round from what is in the folder; returns the digest and what the clock says."""
    config = federation.config.model_copy(update={"rounds": rounds})
    names = [model_type.name for model_type in federation.model_types]
    journal = Journal(folder, federation.channel, names, config.strategy, config.rounds)
    saved = newest_checkpoint(folder.path)
    simulation = Simulation(replace(federation, config=config), make_strategy(config.strategy, config), journal, saved)
    simulation.chunk_clients = dict.fromkeys(range(len(names)), config.chunk.clients)
    simulation.run()
    simulation.close()
    return {"digest": simulation.adapters.sha256(), **simulation.clock.summary()}


def main() -> None:
    """Run modes one after the other; the root writes what came out."""
    torch.set_num_threads(1)
    run_file, out, rounds_before = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    channel = open_channel("mpi", watchdog_seconds=60.0)
    out.mkdir(exist_ok=True)
    federation, results = load(run_file, channel, out), {}
    for name in sys.argv[4:]:
        clock = MODES[name]
        masks = SecureAggregationOptions(enabled=name == "masked")
        config = federation.config.model_copy(update={"clock": clock, "secure_aggregation": masks})
        folder = RunFolder.open(out).subfolder(name)
        chosen = replace(federation, config=config)
        if rounds_before and clock.takes_stale:
            run_rounds(chosen, folder, rounds_before)
            channel.barrier()  # the root has written its checkpoint
        results[name] = run_rounds(chosen, folder, config.rounds)
    if channel.mpi_rank == 0:
        (out / "results.json").write_text(json.dumps(results))
    channel.barrier()
    channel.close()


if __name__ == "__main__":
    main()
