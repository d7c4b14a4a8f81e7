"""Sections about clients that misbehave: what goes wrong on purpose, what is refused, how the rest is combined."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from heterotune.config.field_types import Count, CountOrZero, NotNegative, Number, Positive, Section, Share

Rule = Literal["mean", "median", "trimmed_mean", "norm_clipping", "krum", "multi_krum"]
Behaviour = Literal["sign_flip", "scale", "gaussian_noise", "same_value", "zero"]

SINGLE_UPDATE_RULES = ("median", "trimmed_mean", "krum", "multi_krum")
"""Rules that look at clients one by one. The others are sums of clients, added up exactly on any number of ranks."""

_TINY = 1e-9
"""A share times a count may come out this much below an integer: 0.29 * 100 = 28.999999999999996."""


def most_attackers(rule: Rule, num_clients: int) -> int:
    """Return the largest f that a rule's guarantee allows among K clients; below 0 if there are too few of them.

    `trimmed_mean` needs K >= 2f + 1: it keeps a client between those that it cuts. (Multi-)Krum needs K >= 2f + 3
    (Blanchard et al., 2017). The other rules take no f.
    """
    if rule in ("krum", "multi_krum"):
        return (num_clients - 3) // 2
    return (num_clients - 1) // 2


class AggregateOptions(Section):
    """How the updates of one model type's clients become one."""

    rule: Rule = "mean"
    """The mean weighted by rows, that of clipped updates (norm_clipping), or a rule that resists hostile clients; under
    the latter, finished chunks of a round in progress are not saved."""
    attacker_share: Annotated[Number, Field(gt=0, lt=0.5)] = 0.2
    """Share of a model type's clients in a round that may be hostile, above 0 and below 0.5; in clients, rounded down
    but at least 1, it is what trimmed_mean cuts at each side, and Krum's f."""
    num_selected: Count | Literal["auto"] = "auto"
    """Clients whose mean multi_krum takes, at least 1 and at most K - f; "auto" = K - f."""
    max_norm: Positive | None = None
    """Euclidean norm to which norm_clipping scales a longer update, above 0; null for every other rule."""

    @model_validator(mode="after")
    def _check_max_norm(self) -> AggregateOptions:
        """Only one rule has a bound, and it has no useful default."""
        if self.rule == "norm_clipping" and self.max_norm is None:
            raise ValueError("rule = norm_clipping needs max_norm. Give the longest update that counts in full.")
        if self.rule != "norm_clipping" and self.max_norm is not None:
            text = f"max_norm = {self.max_norm} does nothing under rule = {self.rule}"
            raise ValueError(f"{text}. Drop it, or choose norm_clipping.")
        return self

    def num_attackers(self, num_clients: int) -> int:
        """Return f for K clients."""
        return max(1, math.floor(self.attacker_share * num_clients + _TINY))

    def is_enough(self, num_clients: int) -> bool:
        """Return whether so many clients are enough for the rule to hold what it promises."""
        if self.rule not in ("trimmed_mean", "krum", "multi_krum"):
            return num_clients > 0
        num_attackers = self.num_attackers(num_clients)
        fits = self.num_chosen(num_clients) <= num_clients - num_attackers
        return fits and num_attackers <= most_attackers(self.rule, num_clients)

    def num_chosen(self, num_clients: int) -> int:
        """Return how many of K clients (multi-)Krum keeps."""
        if self.rule == "krum":
            return 1
        return num_clients - self.num_attackers(num_clients) if self.num_selected == "auto" else self.num_selected


class UpdateLimits(Section):
    """Which updates are left out of a round, one by one."""

    faulty: Literal["quarantine", "stop"] = "quarantine"
    """An update that is not finite, of the wrong shape, or too large: leave it out and count it, or stop the run."""
    max_norm: Positive | None = None
    """Largest Euclidean norm of a client's update, above 0; null = no limit."""
    max_norm_factor: Annotated[Number, Field(gt=1)] | None = None
    """Largest norm as a multiple of the median norm in the model type's last round, above 1; null = no limit."""

    @property
    def need_norms(self) -> bool:
        """True if an update's norm must be known to judge it."""
        return self.max_norm is not None or self.max_norm_factor is not None


class SlowClients(Section):
    """Simulated speed of clients: seconds = steps x `seconds_per_step` x the client's own factor, fixed for a run."""

    seconds_per_step: Positive = 1.0
    """Simulated seconds of one optimiser step on a client of median speed, above 0."""
    spread: NotNegative = 0.5
    """Standard deviation of the logarithm of a client's factor, at least 0; 0 = all clients are equally fast."""
    deadline_seconds: Positive
    """A client that needs longer sends nothing, above 0."""


class Interruptions(Section):
    """Clients that stop in the middle of a round: what they did until then is paid for, and nobody gets it."""

    probability: Annotated[Number, Field(gt=0, lt=1)]
    """Probability that a client of the cohort does not finish its steps, above 0 and below 1."""
    earliest: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Least share of its steps that such a client does, at least 0 and below 1."""
    latest: Share = 1.0
    """Largest share of its steps, above `earliest` and at most 1; the share is drawn between the two."""

    @model_validator(mode="after")
    def _check_order(self) -> Interruptions:
        """A range has a lower and an upper end."""
        if self.earliest >= self.latest:
            raise ValueError(f"earliest = {self.earliest:g} is not below latest = {self.latest:g}. Swap or widen them.")
        return self


class Byzantine(Section):
    """Clients that send something else than what they trained, from the first round on, for research on defences."""

    behaviour: Behaviour
    """-u; factor * u; u + sigma * noise; every element the same `value`; or all zero."""
    share: Share | None = None
    """Share of each model type's clients, rounded to the nearest number, above 0 and at most 1; or name `clients`."""
    clients: tuple[CountOrZero, ...] | None = None
    """Ids of these clients, instead of `share`."""
    factor: Number = 10.0
    """Factor of `scale`."""
    sigma: Positive = 1.0
    """Standard deviation of `gaussian_noise`, above 0."""
    value: Number = 1.0
    """Element of `same_value`."""

    @model_validator(mode="after")
    def _check_one(self) -> Byzantine:
        """One way to say who."""
        if (self.share is None) == (self.clients is None):
            raise ValueError("needs either share or clients. Give one of the two.")
        return self

    @field_validator("clients")
    @classmethod
    def _check_clients(cls, clients: tuple[int, ...] | None) -> tuple[int, ...] | None:
        """Somebody, and nobody twice."""
        if clients is not None and (not clients or len(set(clients)) < len(clients)):
            raise ValueError("is empty or repeats a client. List each client's id once.")
        return clients


class MisbehaviourOptions(Section):
    """What goes wrong on purpose, drawn from the run's seed. Nothing by default."""

    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Probability that a client of the cohort is lost before it sends its update, at least 0 and below 1."""
    interrupted: Interruptions | None = None
    """Clients that stop in the middle of their steps; null = none."""
    slow: SlowClients | None = None
    """Speeds and a deadline; null = nobody is late."""
    byzantine: Byzantine | None = None
    """Hostile clients; null = none."""
