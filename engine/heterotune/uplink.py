"""The way up: every client's update becomes messages, the ledger counts them, what arrives is judged and added up.

Legend: K clients, P elements that a client sends, G of them in a group, C columns of a client: P and its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from heterotune.adapters.layout import AdapterLayout
from heterotune.aggregation.byzantine import hostile_update
from heterotune.aggregation.distances import clip_factors, update_norms
from heterotune.aggregation.quarantine import Verdict, judge_update, refuse_faulty
from heterotune.client_store import ClientStore
from heterotune.collective.codecs import codec_named
from heterotune.collective.ledger import Ledger
from heterotune.collective.wire import decode, encode
from heterotune.config.engine_options import CollectiveConfig
from heterotune.config.fault_options import Byzantine, UpdateLimits
from heterotune.errors import WireError
from heterotune.privacy.gaussian_mechanism import clip_updates
from heterotune.randomness import generator
from heterotune.training.local import TrainedChunk


class Intake(Protocol):
    """What takes the updates that count: an exact sum, or what stands before it."""

    def add(self, update_KP: Tensor, weight_K: Tensor, client_ids: Sequence[int]) -> None:
        """Take K clients; see `ExactSum.add`. What stands before a sum may change the rows."""
        ...


@dataclass(frozen=True)
class ClippedSum:
    """Stands before a sum and lets no client weigh more than an update of some norm: the rule norm_clipping."""

    intake: Intake
    max_norm: float

    def add(self, update_KP: Tensor, weight_K: Tensor, client_ids: Sequence[int]) -> None:
        """Add clients with weights w_k min(1, max_norm / norm_k)."""
        factor_K = clip_factors(update_norms(update_KP, client_ids), self.max_norm)
        self.intake.add(update_KP, weight_K * factor_K, client_ids)


@dataclass(frozen=True)
class PrivateSum:
    """Stands before a sum that will get noise: clips every client, and lets all weigh the same.

    Attributes:
        intake: The sum.
        layout: The model type's adapter.
        clip_norms: Part of a sum -> C.
        num_drawn: K, the type's clients that were drawn, whatever became of them.
    """

    intake: Intake
    layout: AdapterLayout
    clip_norms: dict[str, float]
    num_drawn: int

    def add(self, update_KP: Tensor, weight_K: Tensor, client_ids: Sequence[int]) -> None:
        """Add clients with weights 1 / K; their rows are clipped in place."""
        clip_updates(update_KP, self.layout, self.clip_norms, client_ids)
        self.intake.add(update_KP, torch.full_like(weight_K, 1.0 / self.num_drawn), client_ids)


@dataclass(frozen=True)
class UpdateChecks:
    """What is known of a model type's clients before their updates come.

    Attributes:
        limits: Which updates are left out.
        usual_norm: Median norm of the type's last round, None where nobody asks or there was none.
        hostile: Ids of clients that send something else than what they trained.
        byzantine: What they send.
        is_masked: Whether a client's update travels masked, in another message than the wire's, which is not counted.
    """

    limits: UpdateLimits = UpdateLimits()
    usual_norm: float | None = None
    hostile: frozenset[int] = frozenset()
    byzantine: Byzantine | None = None
    is_masked: bool = False


def send_updates(
    result: TrainedChunk,
    layout: AdapterLayout,
    intake: Intake,
    ledger: Ledger,
    *,
    round_number: int,
    weight_K: Tensor,
    wire: CollectiveConfig,
    run_seed: int,
    store: ClientStore,
    checks: UpdateChecks | None = None,
) -> list[Verdict]:
    """Send the updates of a chunk's clients and add those that count to their model type's sum.

    Under a codec with error feedback a client sends its update and what it still owes from earlier rounds, and keeps
    what did not arrive. One whose update is refused owes what it owed before.

    Args:
        result: The trained chunk.
        layout: Its model type's adapter.
        intake: This rank's sum for the model type.
        ledger: Gets one entry a client and tensor group.
        round_number: The round.
        weight_K: The share of each of the chunk's clients in that sum, n_k / N_m over all ranks; float64.
        wire: The codec up and its options.
        run_seed: For codecs that round at random.
        store: Keeps what clients owe.
        checks: What is refused; None = what cannot be added up.

    Returns:
        Whether each client's update counts.

    Raises:
        AggregationError: If an update is faulty and the run stops at those; names the client.
    """
    checks = checks or UpdateChecks()
    way_up = _WayUp(layout, ledger, round_number, wire, run_seed, store, checks)
    clients = result.chunk.clients
    arrived_KP = torch.empty(len(clients), layout.num_travelling)
    verdicts, owed = [], {}
    for place, client in enumerate(clients):
        verdict, owed_P = way_up.send(client.client_id, client.num_rows, result.update_KP[place], arrived_KP[place])
        refuse_faulty(verdict, checks.limits)
        verdicts.append(verdict)
        if verdict.counts:
            owed[place] = owed_P
    if owed:
        counted = [clients[place] for place in owed]
        rows_KP = arrived_KP if len(owed) == len(clients) else arrived_KP[list(owed)]
        intake.add(rows_KP, weight_K[list(owed)], [client.client_id for client in counted])
    for place, owed_P in owed.items():
        if owed_P is not None:
            store.save_residual(clients[place].client_id, layout, owed_P)
    return verdicts


@dataclass(frozen=True)
class _WayUp:
    """What a chunk's clients have in common on the way up; see `send_updates`."""

    layout: AdapterLayout
    ledger: Ledger
    round_number: int
    wire: CollectiveConfig
    run_seed: int
    store: ClientStore
    checks: UpdateChecks

    def send(self, client_id: int, num_rows: int, update_C: Tensor, arrived_P: Tensor) -> tuple[Verdict, Tensor | None]:
        """Send one client's update; returns whether it counts, and what the client owes then (None = nothing)."""
        owed_P = None
        if codec_named(self.wire.wire).keeps_residual:
            owed_P = self.store.load_residual(client_id, self.layout)
        sent_C = self._sent(client_id, update_C)
        try:
            for group, meant_G, columns in _messages(self.layout, sent_C, owed_P):
                arrived_P[columns] = self._over_the_wire(client_id, group, meant_G)
                if owed_P is not None:
                    owed_P[columns] = meant_G - arrived_P[columns]
        except WireError as error:
            return Verdict(client_id, "wrong_shape", str(error)), None
        limits, num_elements = self.checks.limits, self.layout.num_travelling
        verdict = judge_update(
            client_id,
            arrived_P,
            num_elements=num_elements,
            num_rows=num_rows,
            limits=limits,
            usual_norm=self.checks.usual_norm,
        )
        return verdict, owed_P

    def _sent(self, client_id: int, update_C: Tensor) -> Tensor:
        """Return what a client sends of what it trained: a hostile one something else."""
        if self.checks.byzantine is None or client_id not in self.checks.hostile:
            return update_C
        draw = generator(self.run_seed, self.round_number, client_id, "byzantine")
        return hostile_update(update_C, self.checks.byzantine, draw)

    def _over_the_wire(self, client_id: int, group: str, meant_G: Tensor) -> Tensor:
        """Send one group; returns what arrives."""
        draw = None
        if codec_named(self.wire.wire).rounds_at_random:
            draw = generator(self.run_seed, self.round_number, client_id, f"wire/{group}")
        message = encode(meant_G.numpy(), self.wire.wire, draw, topk_share=self.wire.topk_share)
        if not self.checks.is_masked:
            self.ledger.add(
                round_number=self.round_number,
                client_id=client_id,
                model_type=self.layout.model_type,
                direction="up",
                group=group,
                num_bytes=len(message),
            )
        return torch.from_numpy(decode(message, len(meant_G)))


def _messages(layout: AdapterLayout, update_C: Tensor, owed_P: Tensor | None) -> Iterator[tuple[str, Tensor, slice]]:
    """Go through a client's tensor groups: name, what it means to send, and where that is among what travels."""
    start = 0
    for group, columns in layout.group_columns.items():
        end = start + columns.stop - columns.start
        meant_G = update_C[columns] if owed_P is None else update_C[columns] + owed_P[start:end]
        yield group, meant_G, slice(start, end)
        start = end
