"""A round of a federation by channel verbs alone; its digest must not depend on the channel or the number of ranks.

python federation.py KIND PIECE_BYTES OUTPUT.json
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch

from heterotune.aggregation.cmga import align
from heterotune.aggregation.exact import ExactSum
from heterotune.collective import wire
from heterotune.collective.channel import Channel
from heterotune.collective.ledger import Ledger
from heterotune.collective.opening import open_channel

NUM_CLIENTS = 11
NUM_ELEMENTS = 1000
MODEL_TYPES = ("small", "large", "large-2q")
NUM_ROUNDS = 2


def federate(channel: Channel) -> dict[str, object]:
    """Run two rounds; return, on every rank, digests of the final globals, the gathered messages and the ledger."""
    global_P = torch.zeros(NUM_ELEMENTS, dtype=torch.float64)
    ledger, gathered = Ledger(), hashlib.sha256()
    for round_number in range(NUM_ROUNDS):
        sums, messages = _local_work(channel, global_P, round_number, ledger)
        for exact_sum in sums:
            channel.sum_to_root(exact_sum.as_array())
        parts = channel.gather_bytes(b"".join(messages))
        if parts is not None:
            whole = b"".join(parts)
            size = len(whole) // NUM_CLIENTS
            gathered.update(b"".join(sorted(whole[start : start + size] for start in range(0, len(whole), size))))
            update_MP = torch.stack([exact_sum.to_float64() for exact_sum in sums])
            weight_M = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
            global_P += align(update_MP, weight_M=weight_M, rescale=True)[0]
        channel.broadcast(global_P.numpy())
    entries = channel.gather_bytes(ledger.to_bytes())
    result = _result(global_P, gathered.hexdigest(), entries) if entries is not None else None
    return json.loads(channel.broadcast_bytes(json.dumps(result).encode() if result else None))


def _local_work(
    channel: Channel, global_P: torch.Tensor, round_number: int, ledger: Ledger
) -> tuple[list[ExactSum], list[bytes]]:
    """Train this rank's clients; with more ranks than needed some have none."""
    sums = [ExactSum(NUM_ELEMENTS) for _ in MODEL_TYPES]
    messages = []
    for client_id in range(NUM_CLIENTS):
        if (client_id * 7 + round_number) % 3 % channel.num_ranks != channel.mpi_rank:
            continue
        drawn = np.random.default_rng([client_id, round_number]).normal(size=NUM_ELEMENTS)
        update_P = (drawn - 0.1 * global_P.numpy()).astype(np.float32)
        message = wire.encode(update_P)
        type_number = client_id % len(MODEL_TYPES)
        decoded_1P = torch.from_numpy(wire.decode(message, NUM_ELEMENTS)).unsqueeze(0)
        sums[type_number].add(decoded_1P, torch.tensor([1 / NUM_CLIENTS], dtype=torch.float64), [client_id])
        messages.append(message)
        ledger.add(
            round_number=round_number,
            client_id=client_id,
            model_type=MODEL_TYPES[type_number],
            direction="up",
            group="head",
            num_bytes=len(message),
        )
    return sums, messages


def _result(global_P: torch.Tensor, gathered: str, entries: list[bytes]) -> dict[str, object]:
    """Return what is compared."""
    ledger = Ledger()
    for part in entries:
        ledger.merge(Ledger.from_bytes(part))
    digest = hashlib.sha256(global_P.numpy().tobytes()).hexdigest()
    return {"global": digest, "messages": gathered, "ledger": ledger.records()}


def main() -> None:
    """Run on the channel that the command line names; every rank writes what it got."""
    kind, piece_bytes, output = sys.argv[1:]
    channel = open_channel(kind, watchdog_seconds=30.0, piece_bytes=int(piece_bytes))
    result = federate(channel) | {"num_ranks": channel.num_ranks, "name": channel.name}
    Path(f"{output}.{channel.mpi_rank}").write_text(json.dumps(result))
    channel.barrier()
    channel.close()
    channel.close()


if __name__ == "__main__":
    main()
