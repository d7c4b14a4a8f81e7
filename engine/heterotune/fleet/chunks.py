"""Chunks: clients of one model type that train in one pass. A function of the round, never of the number of ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from heterotune.fleet.clients import Client


@dataclass(frozen=True)
class Chunk:
    """Clients of one model type that are trained in lock step.

    Attributes:
        model_type: Index of their model type.
        clients: The clients, in client order.
        num_steps: Local steps of each client, same order.
    """

    model_type: int
    clients: tuple[Client, ...]
    num_steps: tuple[int, ...]

    @property
    def num_passes(self) -> int:
        """Passes over the backbone: the steps of its longest client."""
        return max(self.num_steps)


def form_chunks(
    cohort: Sequence[Client], *, chunk_clients: Mapping[int, int], num_steps: Mapping[int, int]
) -> tuple[Chunk, ...]:
    """Cut a cohort into chunks.

    Clients with the same number of steps are neighbours, so that few passes run with finished clients on board.

    Args:
        cohort: The clients of the round.
        chunk_clients: Model type -> clients per chunk.
        num_steps: Client id -> local steps.

    Returns:
        The chunks in model-type order.
    """
    chunks = []
    for model_type in sorted({client.model_type for client in cohort}):
        members = [client for client in cohort if client.model_type == model_type]
        members.sort(key=lambda client: (-num_steps[client.client_id], client.client_id))
        size = chunk_clients[model_type]
        for start in range(0, len(members), size):
            clients = tuple(sorted(members[start : start + size], key=lambda client: client.client_id))
            chunks.append(Chunk(model_type, clients, tuple(num_steps[client.client_id] for client in clients)))
    return tuple(chunks)
