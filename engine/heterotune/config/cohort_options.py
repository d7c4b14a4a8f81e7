"""Section `cohort` of a run file: which clients take part in a round."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from heterotune.config.field_types import Count, NotNegative, Number, Section, Share

Policy = Literal["uniform", "by_size", "by_loss", "power_of_choice", "oort"]
Percent = Annotated[Number, Field(gt=0, le=100)]

LEARNING_POLICIES = ("by_loss", "power_of_choice", "oort")
"""Policies that look at what clients reported in earlier rounds."""


class PowerOfChoiceOptions(Section):
    """Power of choice (Cho et al., 2022): of some candidates, drawn by size, those with the highest losses."""

    candidates: Annotated[Number, Field(ge=1)] = 3.0
    """Candidates as a multiple of a model type's clients in the round, at least 1; the paper's d."""


class OortOptions(Section):
    """Guided selection (Oort, Lai et al., 2021): useful and fast clients, and some that nobody knows yet."""

    exploration: Annotated[Number, Field(ge=0, le=1)] = 0.9
    """Share of the cohort for clients that never reported, in round 1, 0 to 1."""
    exploration_decay: Share = 0.98
    """Factor of that share from round to round, above 0 and at most 1."""
    least_exploration: Annotated[Number, Field(ge=0, le=1)] = 0.2
    """Share below which it does not fall, 0 to 1."""
    staleness: NotNegative = 0.1
    """Weight of the bonus sqrt(weight * log(round) / last round) for clients not seen for long, at least 0."""
    clip_percentile: Percent = 95.0
    """Percentile of all statistical utilities above which one counts no more, above 0 and at most 100."""
    cut_off: Share = 0.95
    """Clients below this share of the last admitted one's utility have no chance, above 0 and at most 1."""
    penalty: NotNegative = 2.0
    """Exponent of the penalty for clients slower than the preferred duration, at least 0; 0 = speed does not count."""
    preferred_percentile: Percent = 30.0
    """The pacer's preferred duration at first, as a percentile of the known durations, above 0 and at most 100."""
    pacer_percent: NotNegative = 5.0
    """Points by which the pacer raises that percentile when the cohorts' utility falls, at least 0."""
    pacer_rounds: Count = 20
    """Rounds that the pacer compares with as many before them, at least 1."""
    most_rounds: Count | None = None
    """Rounds after which a client is chosen only where others are too few, so that outliers do not rule, at least 1;
    null = never."""


class CohortConfig(Section):
    """Which clients take part in a round: drawn per model type, in proportion."""

    fraction: Share | None = None
    """Share of the fleet, above 0 and at most 1; 1.0 when neither `fraction` nor `clients` is given."""
    clients: Count | None = None
    """Number of clients, at least 1 and at most the fleet's; instead of `fraction`."""
    min_clients: Count = 1
    """Fewest clients whose updates must count in a round, over all model types, at least 1."""
    too_few: Literal["skip", "stop"] = "skip"
    """What to do with a round with fewer: leave the adapters as they are and go on, or stop the run."""
    select: Policy = "uniform"
    """How a model type's clients are chosen: all alike; in proportion to their rows; in proportion to their last known
    training loss; the highest such losses among candidates; by usefulness and speed."""
    power_of_choice: PowerOfChoiceOptions = PowerOfChoiceOptions()
    """Options of select = power_of_choice."""
    oort: OortOptions = OortOptions()
    """Options of select = oort."""

    @property
    def needs_reports(self) -> bool:
        """True if clients tell the server how their training went, beside their updates."""
        return self.select in LEARNING_POLICIES

    @model_validator(mode="before")
    @classmethod
    def _fill_fraction(cls, given: Any) -> Any:
        """Neither fraction nor clients: everybody."""
        if isinstance(given, dict) and given.get("fraction") is None and given.get("clients") is None:
            return {**given, "fraction": 1.0}
        return given

    @model_validator(mode="after")
    def _check_one(self) -> CohortConfig:
        """One way to say it."""
        if self.fraction is not None and self.clients is not None:
            text = f"fraction = {self.fraction} and clients = {self.clients} exclude each other"
            raise ValueError(f"{text}. Set one to null.")
        return self
