"""Rounds of updates through a topology; the values and messages must depend on neither topology nor ranks nor channel.

python topologies.py KIND PIECE_BYTES OUTPUT.json
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from heterotune.adapters.layout import AdapterLayout, TensorSpec
from heterotune.aggregation.exact import BLOCK
from heterotune.aggregation.round_sums import RoundSums
from heterotune.collective.channel import Channel
from heterotune.collective.opening import open_channel
from heterotune.config.field_types import TopologyName
from heterotune.config.heterotune_options import HeterotuneOptions
from heterotune.downlink import Downlink
from heterotune.server import GlobalAdapters
from heterotune.strategies.heterotune import combine_aligned
from heterotune.strategies.strategy import ServerRound
from heterotune.topology import CohortCounts, make_topology

ROUNDS = ((0, 1, 2), (2, 0), (1,))
"""Model types in the cohort of each round, in the order in which they come."""
CLIENTS_OF_TYPE = 3
CODECS = ("fp32", "int8")
"""Ways down: one that loses nothing, and one that rounds at random, so that the server has values of its own."""


def layout(model_type: str, num_layers: int) -> AdapterLayout:
    """Return tensors of a type, of siblings and of the fleet: smaller than a block, longer, and a whole number."""
    own = TensorSpec("own.V", (num_layers, 100), "type", f"type/{model_type}/own.V", "dema.type", "0", "kaiming")
    head = TensorSpec("head.S", (2 * BLOCK + 5,), "fleet", "fleet/head.S", "dema.head", "head", "kaiming")
    layers = [
        TensorSpec(f"{number}.V", (BLOCK,), "width", f"width/{number}.V", "dema.width", str(number))
        for number in range(num_layers)
    ]
    return AdapterLayout(model_type, (own, head, *layers))


def run_rounds(channel: Channel, name: TopologyName, codec: str) -> dict[str, Any]:
    """Run all rounds; return, on every rank, the values' digests after each and what CMGA logged of them."""
    layouts = [layout("a", 2), layout("b", 3), layout("c", 1)]
    adapters = GlobalAdapters(layouts, run_seed=3)
    sums = RoundSums([one.num_travelling for one in layouts])
    topology, downlink = make_topology(name, adapters, channel), Downlink(layouts, [None] * len(layouts))
    topology.broadcast(downlink, codec, 0)
    digests, metrics = [adapters.sha256()], []
    for round_number, places in enumerate(ROUNDS):
        _train(channel, round_number, places, layouts, sums)
        counts = CohortCounts(dict.fromkeys(places, CLIENTS_OF_TYPE), {place: 10 + place for place in places})
        updates = topology.gather(sums, counts)
        if updates is not None:
            server = ServerRound(tensors=adapters.tensors, grams=topology.grams)
            combined = combine_aligned(updates, server, options=HeterotuneOptions())
            topology.apply(combined.change)
            metrics.append(combined.metrics)
        topology.broadcast(downlink, codec, round_number + 1)
        if round_number == 1:  # what the server learns beside the clients' updates
            topology.replace({"fleet/head.S": torch.linspace(0, 1, 2 * BLOCK + 5)})
            topology.broadcast(downlink, codec, round_number + 1)
        digests.append(adapters.sha256())
    mine = hashlib.sha256(b"".join(bytes(message) for message in adapters.messages(codec, 1).values())).hexdigest()
    messages = channel.broadcast_bytes(mine.encode()).decode()  # of the root, which has the server's own values
    logged = channel.broadcast_bytes(json.dumps(metrics).encode())
    return {"digests": digests, "messages": messages, "metrics": json.loads(logged)}


def _train(
    channel: Channel, round_number: int, places: Iterable[int], layouts: list[AdapterLayout], sums: RoundSums
) -> None:
    """Add this rank's clients; a client's update depends on client and round only."""
    for place, exact in sums.begin(places).items():
        for number in range(CLIENTS_OF_TYPE):
            client_id = CLIENTS_OF_TYPE * place + number
            if client_id % channel.num_ranks == channel.mpi_rank:
                drawn = np.random.default_rng([client_id, round_number])
                update_P = torch.from_numpy(drawn.normal(size=layouts[place].num_travelling).astype(np.float32))
                weight_K = torch.tensor([1 / CLIENTS_OF_TYPE], dtype=torch.float64)
                exact.add(update_P.unsqueeze(0), weight_K, [client_id])


def main() -> None:
    """Run every topology on the channel that the command line names; every rank writes what it got."""
    kind, piece_bytes, output = sys.argv[1:]
    channel = open_channel(kind, watchdog_seconds=30.0, piece_bytes=int(piece_bytes))
    result = {codec: {name: run_rounds(channel, name, codec) for name in get_args(TopologyName)} for codec in CODECS}
    Path(f"{output}.{channel.mpi_rank}").write_text(json.dumps(result))
    channel.close()


if __name__ == "__main__":
    main()
