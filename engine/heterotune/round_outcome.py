"""Whose updates count in a round, as every rank knows it when all have trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from heterotune.aggregation.quarantine import Verdict
from heterotune.collective.channel import ROOT, Channel
from heterotune.round_plan import RoundPlan
from heterotune.topology import CohortCounts


@dataclass(frozen=True)
class RoundOutcome:
    """The same on every rank.

    Attributes:
        verdicts: One for each client of the cohort, in client order.
        counts: The clients that count, by model type.
    """

    verdicts: tuple[Verdict, ...]
    counts: CohortCounts

    @property
    def num_counted(self) -> int:
        """Clients that count, over all model types."""
        return sum(self.counts.num_clients.values())


def agree_on_outcome(plan: RoundPlan, mine: Sequence[Verdict], channel: Channel) -> RoundOutcome:
    """Tell all ranks whose updates count. Every rank must call this.

    Args:
        plan: The round's.
        mine: Of the clients that this rank has judged.
        channel: The ranks.
    """
    gathered = channel.gather_bytes(json.dumps([astuple(verdict) for verdict in mine]).encode())
    rows = [] if gathered is None else [row for part in gathered for row in json.loads(part)]
    told = channel.broadcast_bytes(json.dumps(rows).encode() if channel.mpi_rank == ROOT else None)
    verdicts = [Verdict(*row) for row in json.loads(told)]
    verdicts += [Verdict(client.client_id, reason) for client, reason in plan.absent.items()]
    verdicts.sort(key=lambda verdict: verdict.client_id)
    assert [verdict.client_id for verdict in verdicts] == [client.client_id for client in plan.cohort]
    return RoundOutcome(tuple(verdicts), _counts(plan, verdicts))


def _counts(plan: RoundPlan, verdicts: Sequence[Verdict]) -> CohortCounts:
    """Count who counts. Weights were shares of all that trained, so the means of fewer clients are scaled up."""
    counting = {verdict.client_id for verdict in verdicts if verdict.counts}
    num_clients, weight = dict.fromkeys(plan.places, 0), dict.fromkeys(plan.places, 0)
    for client in plan.trained:
        if client.client_id in counting:
            num_clients[client.model_type] += 1
            weight[client.model_type] += plan.weight_of(client)
    scale = {place: plan.weight[place] / part for place, part in weight.items() if 0 < part < plan.weight[place]}
    return CohortCounts(num_clients, weight, scale)
