"""A federation of two model types under every codec, in one job; the bits must not depend on the number of ranks.

python wire_codecs.py RUN.yaml FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from heterotune import preflight
from heterotune.collective.channel import Channel
from heterotune.collective.opening import open_channel
from heterotune.config.load import load_run
from heterotune.federation import Federation, load_backbones
from heterotune.journal import Journal
from heterotune.run_folder import RunFolder
from heterotune.simulation import Simulation
from heterotune.strategies import make_strategy

WIRES = (("fp32", "auto"), ("bf16", "auto"), ("int8", "fp32"), ("topk", "int8"))


def run_wire(run_file: Path, folder: RunFolder, channel: Channel, wire: str, wire_down: str) -> dict[str, object]:
    """Run the federation under one codec; returns its digest and the losses before and after."""
    settings = [f"collective.wire={wire}", f"collective.wire_down={wire_down}", "collective.topk_share=0.05"]
    checked = preflight.check(load_run(run_file, settings))
    names = [model_type.name for model_type in checked.model_types]
    journal = Journal(folder, channel, names, checked.config.strategy, checked.config.rounds)
    device = torch.device("cpu")
    federation = Federation(
        config=checked.config,
        channel=channel,
        model_types=checked.model_types,
        clients=checked.clients,
        data=checked.data,
        public=preflight.public_rows(checked),
        backbones=load_backbones(checked.model_types, checked.config, channel, device, folder.path),
        device=device,
    )
    simulation = Simulation(federation, make_strategy(checked.config.strategy, checked.config), journal)
    simulation.chunk_clients = {place: 2 for place in range(len(names))}
    simulation.evaluate(0)
    simulation.run()
    simulation.close()
    losses = {name: [loss for _, loss in values] for name, values in journal.losses.items()}
    return {"digest": simulation.adapters.sha256(), "losses": losses}


def main() -> None:
    """Run all codecs one after the other; the root writes what came out."""
    torch.set_num_threads(1)
    run_file, out = Path(sys.argv[1]), Path(sys.argv[2])
    channel = open_channel("mpi", watchdog_seconds=60.0)
    results = {}
    for wire, wire_down in WIRES:
        path = out / wire
        path.mkdir(parents=True, exist_ok=True)
        results[wire] = run_wire(run_file, RunFolder.open(path), channel, wire, wire_down)
    if channel.mpi_rank == 0:
        (out / "results.json").write_text(json.dumps(results))
    channel.barrier()
    channel.close()


if __name__ == "__main__":
    main()
