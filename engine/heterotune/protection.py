"""What stands between clients and the common values: who is absent, what is refused, whether a round goes on."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from heterotune.adapters.layout import AdapterLayout
from heterotune.aggregation.exact import ExactSum
from heterotune.aggregation.quarantine import quarantine_metrics, round_goes_on, usual_norms
from heterotune.aggregation.round_sums import RoundSums
from heterotune.config.fault_options import SINGLE_UPDATE_RULES, AggregateOptions, MisbehaviourOptions, UpdateLimits
from heterotune.config.methods import Needs
from heterotune.config.schema import RunConfig
from heterotune.errors import TooFewClients
from heterotune.fleet.clients import Population, draws_of_types
from heterotune.fleet.misbehaviour import hostile_clients
from heterotune.journal import Journal
from heterotune.privacy.account import PrivacyAccount
from heterotune.privacy.gaussian_mechanism import noise
from heterotune.privacy.secure_exchange import side_bytes
from heterotune.privacy.secure_sum import SecureGroup
from heterotune.round_outcome import RoundOutcome
from heterotune.round_plan import RoundPlan
from heterotune.secure_round import MaskedSum, make_group, unmask_sum
from heterotune.single_updates import KeptUpdates, gather_each, gather_robust
from heterotune.strategies.strategy import TypeUpdate
from heterotune.topology import CohortCounts, Topology
from heterotune.training.chunk_batches import steps_of
from heterotune.uplink import ClippedSum, Intake, PrivateSum, UpdateChecks

_SILENT = (UpdateLimits(), MisbehaviourOptions(), AggregateOptions())

LOG = logging.getLogger(__name__)


class Protection:
    """A strategy's protection on every rank. All ranks know the same, and what is kept is small.

    Attributes:
        usual_norms: Place of a model type -> median norm of its last round's updates; only where a limit asks for it.
    """

    def __init__(
        self,
        config: RunConfig,
        population: Population,
        layouts: Sequence[AdapterLayout],
        journal: Journal,
        needs: Needs = "slices",
    ) -> None:
        """Begin with nothing seen.

        Args:
            config: The run.
            population: The whole fleet.
            layouts: Of all model types.
            journal: This rank's.
            needs: What the method needs of a round's updates.
        """
        self._config, self._layouts, self._journal = config, layouts, journal
        self._needs_each = needs == "single updates"
        self._is_single = self._needs_each or config.aggregate.rule in SINGLE_UPDATE_RULES
        self._num_empty = population.num_clients - population.num_members
        self._kept: dict[int, KeptUpdates] = {}
        self._metrics: list[dict[str, Any]] = []
        self._plan = RoundPlan(0, (), ())
        self._groups: dict[int, SecureGroup] = {}
        self._account: PrivacyAccount | None = None
        if config.privacy.mechanism != "none":
            self._account = PrivacyAccount(config.privacy, layouts, draws_of_types(population, config.cohort))
        self._hostile = hostile_clients(population, config.misbehaviour.byzantine, run_seed=config.seed)
        self._type_of = population.model_type_of
        self.usual_norms: dict[int, float] = {}

    def checks(self, place: int) -> UpdateChecks:
        """Return what updates of a model type are checked for in this round."""
        config = self._config
        return UpdateChecks(
            config.updates,
            self.usual_norms.get(place),
            self._hostile,
            config.misbehaviour.byzantine,
            is_masked=config.secure_aggregation.enabled,
        )

    @property
    def progress_seconds(self) -> float | None:
        """Shortest time between two savings of finished chunks; None = never: single updates are too much to save."""
        return None if self._is_single else self._config.checkpoint.progress_every_seconds

    def begin(self, plan: RoundPlan) -> None:
        """Begin a round."""
        self._plan = plan
        self._kept = {place: KeptUpdates() for place in plan.places}
        self._groups = {}
        if self._config.secure_aggregation.enabled:
            names = [layout.model_type for layout in self._layouts]
            options, seed = self._config.secure_aggregation, self._config.seed
            self._groups = {place: make_group(plan, place, names[place], options, seed) for place in plan.places}
        self._metrics = []

    def intake(self, place: int, exact: ExactSum) -> Intake:
        """Return what takes the updates of a model type that count."""
        if self._is_single:
            return self._kept[place]
        intake: Intake = exact
        if self._config.secure_aggregation.enabled:
            intake = MaskedSum(exact, self._groups[place], self._journal.ledger)
        if self._account is not None:
            options, num_drawn = self._config.privacy, self._plan.num_drawn[place]
            return PrivateSum(intake, self._layouts[place], options.clip_norms, num_drawn)
        max_norm = self._config.aggregate.max_norm
        return intake if max_norm is None else ClippedSum(intake, max_norm)

    def side_bytes(self, counting: Collection[int]) -> dict[int, tuple[int, int]]:
        """Return client id -> bytes (down, up) of what the round's cohort has yet to exchange, beside updates.

        Args:
            counting: The clients whose updates count.
        """
        found = {}
        for group in self._groups.values():
            arrived = set(group.client_ids).intersection(counting)
            found |= {client_id: side_bytes(group, client_id, arrived=arrived) for client_id in group.client_ids}
        return found

    def gather(self, topology: Topology, sums: RoundSums, outcome: RoundOutcome) -> list[TypeUpdate] | None:
        """Return each model type's update of a round on the ranks that combine. Every rank must call this."""
        unmask = partial(self._unmask, outcome) if self._config.secure_aggregation.enabled else None
        if self._account is not None:
            self._account.num_rounds += 1
            num_drawn = self._plan.num_drawn  # neither rows nor who came: both are private
            counts = CohortCounts(outcome.counts.num_clients, num_drawn)
            return topology.gather(sums, counts, self._noise, unmask) or None
        if not self._is_single:
            return topology.gather(sums, outcome.counts, None, unmask) or None
        weight_of = {client.client_id: self._plan.weight_of(client) for client in self._plan.trained}
        options, channel = self._config.aggregate, self._journal.channel
        if self._needs_each:
            return gather_each(self._kept, self._layouts, outcome.counts, weight_of, channel) or None
        found = gather_robust(self._kept, self._layouts, outcome.counts, weight_of, options, channel)
        self._metrics = [] if found is None else found.metrics
        return None if found is None else found.updates or None

    def goes_on(self, outcome: RoundOutcome, round_number: int) -> bool:
        """Take note of a round's updates; returns whether there are enough to change anything. The same on all ranks.

        Raises:
            TooFewClients: If there are too few and the run stops then.
        """
        for verdict in outcome.verdicts:
            if verdict.detail and self._journal.is_root:
                LOG.warning("client %d: %s: %s", verdict.client_id, verdict.reason, verdict.detail)
        self.usual_norms = usual_norms(outcome.verdicts, self._type_of, self.usual_norms)
        cohort = self._config.cohort
        # With noise, nothing may depend on what an update was like: those that were refused are nobody's business.
        num_counted = outcome.num_counted if self._account is None else len(self._plan.trained)
        return round_goes_on(
            num_counted, min_clients=cohort.min_clients, too_few=cohort.too_few, round_number=round_number
        )

    def metrics(self, outcome: RoundOutcome, *, goes_on: bool) -> list[dict[str, Any]]:
        """Return a round's numbers about its clients (root only); none if all count and the run asks for nothing."""
        if not self._journal.is_root:
            return []
        config = self._config
        asked = (config.updates, config.misbehaviour, config.aggregate)
        spent = [] if self._account is None else self._account.metrics()
        if asked == _SILENT and goes_on and all(verdict.counts for verdict in outcome.verdicts):
            return [*self._metrics, *spent]
        skipped = {"name": "round/skipped", "value": int(not goes_on), "unit": "rounds"}
        counts = quarantine_metrics(outcome.verdicts, self._num_empty)
        return [*counts, skipped, *self._interrupted_steps(), *self._metrics, *spent]

    def _interrupted_steps(self) -> list[dict[str, Any]]:
        """Return what clients did in vain before they stopped; nothing if nobody stops on purpose."""
        if self._config.misbehaviour.interrupted is None:
            return []
        plan, local = self._plan, self._config.local
        done = [
            int(plan.done_share[client.client_id] * steps_of(client.num_rows, local))
            for client in plan.absent
            if client.client_id in plan.done_share
        ]
        return [{"name": "clients/interrupted_steps", "value": sum(done), "unit": "steps"}]

    def _unmask(self, outcome: RoundOutcome, place: int, exact: ExactSum) -> bool:
        """Take the masks off a model type's sum; returns False if too few of its clients came."""
        group = self._groups[place]
        arrived = {verdict.client_id for verdict in outcome.verdicts if verdict.counts} & set(group.client_ids)
        lost = {"name": "secure_sum/recovered", "model_type": group.model_type, "unit": "clients"}
        self._metrics.append({**lost, "value": len(group.client_ids) - len(arrived)})
        try:
            unmask_sum(exact, group, arrived, self._journal.ledger)
        except TooFewClients as error:
            LOG.warning("%s: %s is left out of round %d", error, group.model_type, group.round_number)
            self._metrics.append({**lost, "name": "secure_sum/too_few", "value": 1, "unit": "rounds"})
            return False
        return True

    def _noise(self, place: int) -> np.ndarray:
        """Return the noise of a model type's sum in this round."""
        options = self._config.privacy
        assert isinstance(options.noise_multiplier, float)
        return noise(
            self._layouts[place],
            options.clip_norms,
            noise_multiplier=options.noise_multiplier,
            num_clients=self._plan.num_drawn[place],
            run_seed=self._config.seed,
            round_number=self._plan.round_number,
        )

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs."""
        facts: dict[str, Any] = {"usual_norms": {str(place): norm for place, norm in self.usual_norms.items()}}
        if self._account is not None:
            facts |= {"private_rounds": self._account.num_rounds, "epsilon": self._account.epsilons()}
        return facts

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned; {} = nothing."""
        self.usual_norms = {int(place): norm for place, norm in state.get("usual_norms", {}).items()}
        if self._account is not None:
            self._account.num_rounds = state.get("private_rounds", 0)
