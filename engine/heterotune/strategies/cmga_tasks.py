"""Whose updates CMGA aligns: model types as they come, or single clients, each like a model type of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from heterotune.adapters.layout import AdapterLayout
from heterotune.strategies.strategy import TypeUpdate


@dataclass(frozen=True)
class ClientVector(Mapping[str, Tensor]):
    """What one client sent, by key, as float64: made when it is asked for, so that no second copy of all is held.

    Attributes:
        update_P: What it sent, float32. Not changed.
        columns: Key -> its place in it.
    """

    update_P: Tensor
    columns: Mapping[str, slice]

    def __getitem__(self, key: str) -> Tensor:
        return self.update_P[self.columns[key]].double()

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)


@dataclass(frozen=True)
class SomeKeys(Mapping[str, Tensor]):
    """A part of a mapping: only some of its keys, in this order."""

    whole: Mapping[str, Tensor]
    keys_here: tuple[str, ...]

    def __getitem__(self, key: str) -> Tensor:
        return self.whole[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys_here)

    def __len__(self) -> int:
        return len(self.keys_here)


def client_tasks(updates: Sequence[TypeUpdate], layouts: Mapping[str, AdapterLayout]) -> list[TypeUpdate]:
    """Return the single updates of a round, in client order, each with what its client weighs.

    Args:
        updates: With single updates.
        layouts: Model type -> its adapter.
    """
    tasks: dict[int, TypeUpdate] = {}
    for update in updates:
        assert update.clients is not None, "single clients need single updates"
        layout = layouts[update.model_type]
        columns = {spec.key: layout.travelling_columns[spec.name] for spec in layout.travelling}
        of_clients = zip(
            update.clients.client_ids, update.clients.share_K.tolist(), update.clients.update_KP, strict=True
        )
        for client_id, share, update_P in of_clients:
            weight = round(share * update.weight)  # rows, or 1: whole numbers
            tasks[client_id] = TypeUpdate(f"client {client_id}", weight, ClientVector(update_P, columns), 1)
    return [tasks[client_id] for client_id in sorted(tasks)]
