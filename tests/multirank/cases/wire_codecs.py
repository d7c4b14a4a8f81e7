"""A federation of two model types under every codec, in one job; the bits must not depend on the number of ranks.

python wire_codecs.py RUN.yaml FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from heterotune import preflight
from heterotune.collective.channel import Channel
from heterotune.collective.opening import open_channel
from heterotune.config.engine_options import CollectiveConfig
from heterotune.config.load import load_run
from heterotune.federation import Federation, load_backbones
from heterotune.fleet.placement import spread
from heterotune.journal import Journal
from heterotune.run_folder import RunFolder
from heterotune.simulation import Simulation
from heterotune.strategies import make_strategy

WIRES = (("fp32", "auto"), ("bf16", "auto"), ("int8", "fp32"), ("topk", "int8"))


def load(run_file: Path, channel: Channel, scratch: Path, overrides: Sequence[str] = ()) -> Federation:
    """Load what all codecs share."""
    checked, device = preflight.check(load_run(run_file, overrides)), torch.device("cpu")
    placement = spread(len(checked.model_types), channel.num_ranks)
    return Federation(
        config=checked.config,
        channel=channel,
        model_types=checked.model_types,
        population=checked.population,
        data=checked.data,
        public=checked.public,
        placement=placement,
        backbones=load_backbones(checked.model_types, checked.config, channel, device, scratch, placement),
        device=device,
    )


def run_wire(federation: Federation, folder: RunFolder) -> dict[str, object]:
    """Run the federation; returns its digest and its held-out losses."""
    config, names = federation.config, [model_type.name for model_type in federation.model_types]
    journal = Journal(folder, federation.channel, names, config.strategy, config.rounds)
    simulation = Simulation(federation, make_strategy(config.strategy, config), journal)
    simulation.chunk_clients = dict.fromkeys(range(len(names)), config.chunk.clients)
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
    out.mkdir(exist_ok=True)
    federation, results = load(run_file, channel, out), {}
    for wire, wire_down in WIRES:
        collective = CollectiveConfig(wire=wire, wire_down=wire_down, topk_share=0.05)
        chosen = replace(federation, config=federation.config.model_copy(update={"collective": collective}))
        results[wire] = run_wire(chosen, RunFolder.open(out).subfolder(wire))
    if channel.mpi_rank == 0:
        (out / "results.json").write_text(json.dumps(results))
    channel.barrier()
    channel.close()


if __name__ == "__main__":
    main()
