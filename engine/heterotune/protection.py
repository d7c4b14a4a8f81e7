"""What stands between clients and the common values: who is absent, what is refused, whether a round goes on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from heterotune.aggregation.quarantine import quarantine_metrics, round_goes_on, usual_norms
from heterotune.config.fault_options import MisbehaviourOptions, UpdateLimits
from heterotune.config.schema import RunConfig
from heterotune.fleet.clients import Client
from heterotune.fleet.misbehaviour import hostile_clients
from heterotune.round_outcome import RoundOutcome
from heterotune.uplink import UpdateChecks

LOG = logging.getLogger(__name__)


class Protection:
    """A strategy's protection on every rank. All ranks know the same, and what is kept is small.

    Attributes:
        usual_norms: Place of a model type -> median norm of its last round's updates; only where a limit asks for it.
    """

    def __init__(self, config: RunConfig, clients: Sequence[Client]) -> None:
        """Begin with nothing seen.

        Args:
            config: The run.
            clients: The whole fleet.
        """
        self._config = config
        self._hostile = hostile_clients(clients, config.misbehaviour.byzantine, run_seed=config.seed)
        self._type_of = {client.client_id: client.model_type for client in clients}
        self.usual_norms: dict[int, float] = {}

    def checks(self, place: int) -> UpdateChecks:
        """Return what updates of a model type are checked for in this round."""
        config = self._config
        return UpdateChecks(config.updates, self.usual_norms.get(place), self._hostile, config.misbehaviour.byzantine)

    def goes_on(self, outcome: RoundOutcome, round_number: int) -> bool:
        """Take note of a round's updates; returns whether there are enough to change anything. The same on all ranks.

        Raises:
            TooFewClients: If there are too few and the run stops then.
        """
        for verdict in outcome.verdicts:
            if verdict.detail:
                LOG.warning("client %d: %s: %s", verdict.client_id, verdict.reason, verdict.detail)
        self.usual_norms = usual_norms(outcome.verdicts, self._type_of, self.usual_norms)
        cohort = self._config.cohort
        return round_goes_on(
            outcome.num_counted, min_clients=cohort.min_clients, too_few=cohort.too_few, round_number=round_number
        )

    def metrics(self, outcome: RoundOutcome, *, goes_on: bool) -> list[dict[str, Any]]:
        """Return a round's numbers about its clients; none where all count and the run asks for nothing."""
        config = self._config
        is_asked = (config.updates, config.misbehaviour) != (UpdateLimits(), MisbehaviourOptions())
        if not is_asked and goes_on and all(verdict.counts for verdict in outcome.verdicts):
            return []
        skipped = {"name": "round/skipped", "value": int(not goes_on), "unit": "rounds"}
        return [*quarantine_metrics(outcome.verdicts), skipped]

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs."""
        return {"usual_norms": {str(place): norm for place, norm in self.usual_norms.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned; {} = nothing."""
        self.usual_norms = {int(place): norm for place, norm in state.get("usual_norms", {}).items()}
