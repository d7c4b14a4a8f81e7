"""Secure aggregation in a round: what its clients send, masked, and what the root does to take the masks off a sum.

Simulated: see privacy/secure_sum.py. A sum's integers are masked, its counters are not: who takes part, and with what
weight, is public. A client that drops out or comes late is lost after it shared its secrets: its masks are recovered.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from heterotune.aggregation.exact import ExactSum
from heterotune.collective.ledger import Direction, Ledger
from heterotune.config.privacy_options import SecureAggregationOptions
from heterotune.privacy.secure_exchange import SentMessage, begin, finish, masked_message, read_masked
from heterotune.privacy.secure_sum import SecureGroup, mask, secure_group
from heterotune.round_plan import RoundPlan


@dataclass(frozen=True)
class MaskedSum:
    """Stands before a sum and adds every client masked: an `Intake`.

    Attributes:
        exact: The sum, masked until the root takes the masks off.
        group: The model type's clients in this round.
        ledger: Gets what they send.
    """

    exact: ExactSum
    group: SecureGroup
    ledger: Ledger

    def add(self, update_KP: Tensor, weight_K: Tensor, client_ids: Sequence[int]) -> None:
        """Let each client mask its integers, and add what arrives modulo 2^64."""
        for place, client_id in enumerate(client_ids):
            own = ExactSum(self.exact.num_elements)
            own.add(update_KP[place : place + 1], weight_K[place : place + 1], client_ids[place : place + 1])
            masked_P = mask(self.group, client_id, own.sum_P.numpy())
            message = masked_message(self.group, client_id, masked_P)
            note(self.ledger, self.group, client_id, "up", "masked", len(message))
            arrived_P = read_masked(self.group, message, num_elements=len(masked_P))
            own.sum_P.numpy()[:] = arrived_P.view("int64")
            self.exact.merge(own)


def make_group(plan: RoundPlan, place: int, name: str, options: SecureAggregationOptions, run_seed: int) -> SecureGroup:
    """Return the group of a model type's whole cohort; the same on every rank, without messages."""
    ids = [client.client_id for client in plan.cohort if client.model_type == place]
    return secure_group(
        ids, threshold=options.threshold, run_seed=run_seed, round_number=plan.round_number, model_type=name
    )


def unmask_sum(exact: ExactSum, group: SecureGroup, arrived: Collection[int], ledger: Ledger) -> None:
    """Take the masks off a complete sum, in place: the root calls this.

    Args:
        exact: Of all ranks.
        group: Its clients.
        arrived: Those in the sum; they stay to the end.
        ledger: Gets the protocol's other messages.

    Raises:
        TooFewClients: If too few arrived.
    """
    inboxes, sent = begin(group)
    _note_all(ledger, group, sent)  # also where what follows fails
    _note_all(ledger, group, finish(group, exact.sum_P.numpy(), inboxes, arrived=arrived, staying=arrived))


def _note_all(ledger: Ledger, group: SecureGroup, sent: Sequence[SentMessage]) -> None:
    """Count what the root played of the protocol."""
    for message in sent:
        note(ledger, group, message.client_id, message.direction, message.kind.name, len(message.data))


def note(ledger: Ledger, group: SecureGroup, client_id: int, direction: Direction, kind: str, num_bytes: int) -> None:
    """Count one message of the protocol."""
    ledger.add(
        round_number=group.round_number,
        client_id=client_id,
        model_type=group.model_type,
        direction=direction,
        group=f"secure_sum.{kind}",
        num_bytes=num_bytes,
    )
