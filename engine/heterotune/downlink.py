"""The way down: the messages in which clients download the common values, broadcast from the root to all ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch

from heterotune.adapters.bank import HeadFrame
from heterotune.adapters.dema import FRAME_GROUP
from heterotune.adapters.layout import AdapterLayout
from heterotune.base_change import BaseChange
from heterotune.collective.channel import ROOT, Channel
from heterotune.collective.ledger import Ledger
from heterotune.collective.wire import encode, message_bytes
from heterotune.fleet.clients import Client
from heterotune.server import GlobalAdapters, Messages

BASE_GROUP = "base"
"""The ledger's name of what is added to frozen weights."""


class Downlink:
    """What clients download: the latest common values before they train, frozen tensors when they first take part.

    Attributes:
        known_clients: Ids of those that have taken part, and the round in which they last did.
    """

    def __init__(self, layouts: Sequence[AdapterLayout], frames: Sequence[HeadFrame | None]) -> None:
        """Encode the frozen tensors of the head branch; they travel once per client."""
        self._layouts = tuple(layouts)
        self._values: Messages = {}
        self.known_clients: dict[int, int] = {}
        self._base_bytes: list[tuple[int, int, int]] = []  # round after which, place, bytes of the factors
        self._base: BaseChange | None = None
        self._dense_bytes: dict[int, int] = {}  # place -> bytes of the whole change, once somebody wants it
        self._frozen: Messages = {}
        self._aligned_after = 0  # the round after which the maps were found
        for place, frame in enumerate(frames):
            if frame is not None:
                is_tokens = layouts[place].head.outputs == "labels"  # one number says what a row of Q is
                basis = frame.basis_QV.argmax(dim=1) if is_tokens else frame.basis_QV.flatten()
                self._frozen[place, FRAME_GROUP] = _frame_message(frame)
                self._frozen[place, "dema.head.basis"] = encode(basis.float().cpu().numpy())

    def broadcast(self, adapters: GlobalAdapters, channel: Channel, codec: str, round_number: int) -> None:
        """Send the root's values to all ranks and take them from the messages. Every rank must call this.

        Args:
            adapters: Get the values as clients have them after the wire.
            channel: The ranks.
            codec: Wire format.
            round_number: The round that is done, 0 = none.
        """
        mine = adapters.messages(codec, round_number) if channel.mpi_rank == ROOT else {}
        names = [(place, group) for place, layout in enumerate(self._layouts) for group in layout.downloads]
        for key in adapters.windowed():  # where no client's part is: ranks need all, clients do not
            channel.broadcast(adapters.exact[key].numpy())
        self.take(adapters, {name: channel.broadcast_bytes(mine.get(name)) for name in names})
        self._broadcast_base(adapters.base, channel, codec, round_number)

    def realign(self, frames: Sequence[HeadFrame], round_number: int) -> None:
        """Have other maps of the head branch after a round: whoever took part up to then downloads them, too."""
        self._aligned_after = round_number
        for place, frame in enumerate(frames):
            self._frozen[place, FRAME_GROUP] = _frame_message(frame)

    def take(self, adapters: GlobalAdapters, messages: Messages) -> None:
        """Remember messages, the same on every rank, as what clients download, and take the values from them."""
        self._values = messages
        adapters.receive(messages)

    def _broadcast_base(self, base: BaseChange, channel: Channel, codec: str, round_number: int) -> None:
        """Send what the root adds to frozen weights to all ranks, and add it."""
        mine = base.messages(codec, round_number) if channel.mpi_rank == ROOT else {}
        for place, layout in enumerate(self._layouts):
            message = channel.broadcast_bytes(mine.get(place, b"")) if layout.base else b""
            if message:
                base.receive({place: message})
                self._base_bytes.append((round_number, place, len(message)))
        self._base, self._dense_bytes = base, {}

    def note(self, clients: Iterable[Client], ledger: Ledger, round_number: int) -> None:
        """Count what clients downloaded before they trained, or were to train."""
        for client in clients:
            messages = dict(self._values)
            if client.client_id not in self.known_clients:
                messages |= self._frozen
            elif 0 < self._aligned_after >= self.known_clients[client.client_id]:
                messages |= {name: data for name, data in self._frozen.items() if name[1] == FRAME_GROUP}
            sizes = {group: len(data) for (place, group), data in messages.items() if place == client.model_type}
            base_bytes = self.base_bytes(client.model_type, self.known_clients.get(client.client_id, 0))
            if base_bytes:
                sizes[BASE_GROUP] = base_bytes
            for group, num_bytes in sizes.items():
                ledger.add(
                    round_number=round_number,
                    client_id=client.client_id,
                    model_type=self._layouts[client.model_type].model_type,
                    direction="down",
                    group=group,
                    num_bytes=num_bytes,
                )

    def base_bytes(self, place: int, last_round: int) -> int:
        """Return what a client downloads of its base change: the factors of all rounds since it last took part.

        Or the whole change, dense, where that is fewer bytes. A client of round t had the factors up to round t - 1.

        Args:
            place: The client's model type.
            last_round: The round in which it last took part; 0 = never.
        """
        factors = sum(size for after, of, size in self._base_bytes if of == place and after >= last_round)
        planned = sum(message_bytes(math.prod(site.shape), "fp32") for site in self._layouts[place].base)
        if self._base is None or factors <= planned:
            return factors
        if place not in self._dense_bytes:  # as large as the model: written only where somebody downloads it
            self._dense_bytes[place] = self._base.dense_bytes(place)
        return self._dense_bytes[place]

    def state(self) -> dict[str, torch.Tensor]:
        """Return what `restore` needs, as tensors."""
        known = torch.tensor(list(self.known_clients), dtype=torch.int64)
        order = known.argsort()
        found = {"known_clients": known[order]}
        has_base = any(layout.base for layout in self._layouts)
        if has_base or self._aligned_after:
            found["known_since"] = torch.tensor(list(self.known_clients.values()), dtype=torch.int64)[order]
        if self._aligned_after:
            found["aligned_after"] = torch.tensor(self._aligned_after)
        if has_base:
            found["base_bytes"] = torch.tensor(self._base_bytes, dtype=torch.int64).view(-1, 3)
        return found

    def restore(self, saved: Mapping[str, torch.Tensor], base: BaseChange) -> None:
        """Go on from what `state` returned; the base change is as it was then."""
        ids = saved["known_clients"].tolist()
        rounds = saved["known_since"].tolist() if "known_since" in saved else [0] * len(ids)
        self.known_clients = dict(zip(ids, rounds, strict=True))
        self._aligned_after = int(saved.get("aligned_after", 0))
        if "base_bytes" in saved:
            self._base_bytes = [(after, place, size) for after, place, size in saved["base_bytes"].tolist()]
        self._base = base

    def held_bytes(self) -> int:
        """Return the bytes of all messages that are kept for clients."""
        return sum(len(message) for messages in (self._values, self._frozen) for message in messages.values())

    def remember(self, cohort: Iterable[Client], round_number: int) -> None:
        """Take note of a round's whole cohort: its clients now have what they downloaded. Every rank calls this."""
        self.known_clients |= {client.client_id: round_number for client in cohort}


def _frame_message(frame: HeadFrame) -> bytes:
    """Return a type's own maps and mean as one message."""
    return encode(torch.cat([frame.down_RD.flatten(), frame.mean_D.flatten()]).float().cpu().numpy())
