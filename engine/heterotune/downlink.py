"""The way down: the messages in which clients download the common values, broadcast from the root to all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from heterotune.adapters.bank import HeadFrame
from heterotune.adapters.layout import AdapterLayout
from heterotune.collective.channel import ROOT, Channel
from heterotune.collective.ledger import Ledger
from heterotune.collective.wire import encode
from heterotune.fleet.clients import Client
from heterotune.server import GlobalAdapters, Messages


class Downlink:
    """What clients download: the latest common values before they train, frozen tensors when they first take part.

    Attributes:
        known_clients: Ids of those that have taken part.
    """

    def __init__(self, layouts: Sequence[AdapterLayout], frames: Sequence[HeadFrame | None]) -> None:
        """Encode the frozen tensors of the head branch; they travel once per client."""
        self._layouts = tuple(layouts)
        self._values: Messages = {}
        self.known_clients: set[int] = set()
        self._frozen: Messages = {}
        for place, frame in enumerate(frames):
            if frame is not None:
                maps = torch.cat([frame.down_RD.flatten(), frame.mean_D.flatten()])
                for group, tensor in {"dema.head.frame": maps, "dema.head.basis": frame.basis_QV.flatten()}.items():
                    self._frozen[place, group] = encode(tensor.float().cpu().numpy())

    def broadcast(self, adapters: GlobalAdapters, channel: Channel, codec: str, round_number: int) -> None:
        """Send the root's values to all ranks and take them from the messages. Every rank must call this.

        Args:
            adapters: Get the values as clients have them after the wire.
            channel: The ranks.
            codec: Wire format.
            round_number: The round that is done, 0 = none.
        """
        mine = adapters.messages(codec, round_number) if channel.mpi_rank == ROOT else {}
        names = [(place, group) for place, layout in enumerate(self._layouts) for group in layout.group_columns]
        self.take(adapters, {name: channel.broadcast_bytes(mine.get(name)) for name in names})

    def take(self, adapters: GlobalAdapters, messages: Messages) -> None:
        """Remember messages, the same on every rank, as what clients download, and take the values from them."""
        self._values = messages
        adapters.receive(messages)

    def note(self, clients: Iterable[Client], ledger: Ledger, round_number: int) -> None:
        """Count what clients downloaded before they trained, or were to train."""
        for client in clients:
            layout = self._layouts[client.model_type]
            messages = dict(self._values)
            if client.client_id not in self.known_clients:
                messages |= self._frozen
            for (place, group), message in messages.items():
                if place == client.model_type:
                    ledger.add(
                        round_number=round_number,
                        client_id=client.client_id,
                        model_type=layout.model_type,
                        direction="down",
                        group=group,
                        num_bytes=len(message),
                    )

    def held_bytes(self) -> int:
        """Return the bytes of all messages that are kept for clients."""
        return sum(len(message) for messages in (self._values, self._frozen) for message in messages.values())

    def remember(self, cohort: Iterable[Client]) -> None:
        """Take note of a round's whole cohort: next time its clients have the frozen tensors. Every rank calls this."""
        self.known_clients.update(client.client_id for client in cohort)
