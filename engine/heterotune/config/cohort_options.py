"""Section `cohort` of a run file: which clients take part in a round."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from heterotune.config.field_types import Count, Section, Share


class CohortConfig(Section):
    """Which clients take part in a round: sampled per model type, in proportion."""

    fraction: Share | None = None
    """Share of the fleet, above 0 and at most 1; 1.0 when neither `fraction` nor `clients` is given."""
    clients: Count | None = None
    """Number of clients, at least 1 and at most the fleet's; instead of `fraction`."""
    min_clients: Count = 1
    """Fewest clients whose updates must count in a round, over all model types, at least 1."""
    too_few: Literal["skip", "stop"] = "skip"
    """What to do with a round with fewer: leave the adapters as they are and go on, or stop the run."""

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
