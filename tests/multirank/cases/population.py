"""Rounds of a small and of a huge fleet with clients that keep state, in one job; counts what is made of clients.

python population.py RUN.yaml FOLDER NUM_CLIENTS...
"""

from __future__ import annotations

import json
import sys
import tracemalloc
from pathlib import Path

import torch
from wire_codecs import load

from heterotune.client_segments import latest_states
from heterotune.collective.channel import Channel
from heterotune.collective.opening import open_channel
from heterotune.data.drawn_rows import DrawnRows
from heterotune.data.overview import overview
from heterotune.fleet import clients as clients_module
from heterotune.journal import Journal
from heterotune.run_folder import RunFolder
from heterotune.simulation import Simulation
from heterotune.strategies import make_strategy

COUNTS = {"clients": 0, "rows": 0}


def count() -> None:
    """Count every client that is made, and every time that a client's rows are drawn."""
    client, numbers_of = clients_module.Client, DrawnRows.numbers_of

    def counted_client(*args: int) -> clients_module.Client:
        COUNTS["clients"] += 1
        return client(*args)

    def counted_draw(self: DrawnRows, client_id: int) -> object:
        COUNTS["rows"] += 1
        return numbers_of(self, client_id)

    clients_module.Client, DrawnRows.numbers_of = counted_client, counted_draw


def run(run_file: Path, num_clients: int, channel: Channel, folder: Path) -> dict[str, object]:
    """Run two rounds of a fleet; returns what was made in the second, and what came out."""
    federation = load(run_file, channel, folder, [f"fleet.0.clients={num_clients}"])
    config, names = federation.config, [model_type.name for model_type in federation.model_types]
    listed = len(overview(federation.data, ["tiny"] * num_clients)["clients"])
    journal = Journal(RunFolder.open(folder), channel, names, config.strategy, config.rounds)
    simulation = Simulation(federation, make_strategy(config.strategy, config), journal)
    simulation.chunk_clients = {0: config.chunk.clients}
    simulation.run_round(1)
    COUNTS.update(clients=0, rows=0)
    tracemalloc.start()
    simulation.run_round(2)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    simulation.close()
    states = {
        f"{kind} {client_id}": values.tolist()
        for (kind, _, client_id), values in latest_states(folder / "clients").items()
    }
    digest = simulation.adapters.sha256()
    return {**COUNTS, "peak_bytes": peak_bytes, "listed": listed, "digest": digest, "states": states}


def main() -> None:
    """Run the fleets one after the other; the root writes what it found."""
    torch.set_num_threads(1)
    run_file, out = Path(sys.argv[1]), Path(sys.argv[2])
    channel = open_channel("mpi", watchdog_seconds=60.0)
    count()
    found = {}
    for num_clients in map(int, sys.argv[3:]):
        folder = out / str(num_clients)
        folder.mkdir(parents=True, exist_ok=True)
        found[num_clients] = run(run_file, num_clients, channel, folder)
    if channel.mpi_rank == 0:
        (out / "results.json").write_text(json.dumps(found))
    channel.barrier()
    channel.close()


if __name__ == "__main__":
    main()
