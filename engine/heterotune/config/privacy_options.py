"""Sections about what clients reveal: noise on the sums of their updates, and sums that hide single updates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from heterotune.config.field_types import Flag, Number, Positive, Section


class PrivacyOptions(Section):
    """Differential privacy of whole clients (DP-FedAvg): every update is clipped, every sum of a round gets noise.

    A model type's sum has two parts with bounds of their own: the tensors that stay within the type, and those that
    other types see, too (scope width or fleet).
    """

    mechanism: Literal["none", "gaussian"] = "none"
    """Whether clients' updates are clipped and their sums get Gaussian noise."""
    clip_norm: Positive | None = None
    """Euclidean norm C to which a client's tensors of scope "type" are clipped, above 0."""
    shared_clip_norm: Positive | None = None
    """The same for the tensors that model types share; null = `clip_norm`."""
    noise_multiplier: Positive | Literal["auto"] | None = None
    """z, above 0: a sum of updates gets noise of standard deviation z * C; "auto" = what `target_epsilon` needs."""
    target_epsilon: Positive | None = None
    """Largest epsilon after the last round, above 0; only with noise_multiplier = auto."""
    delta: Annotated[Number, Field(gt=0, lt=1)] = 1e-5
    """Delta of the guarantee, above 0 and below 1; choose it well below one over the number of clients."""

    @model_validator(mode="after")
    def _check_complete(self) -> PrivacyOptions:
        """Noise without a bound on a client's part protects nobody; a bound without noise neither."""
        given = {"clip_norm": self.clip_norm, "noise_multiplier": self.noise_multiplier}
        if self.mechanism == "none":
            given |= {"shared_clip_norm": self.shared_clip_norm, "target_epsilon": self.target_epsilon}
            useless = [name for name, value in given.items() if value is not None]
            if useless:
                raise ValueError(f"{useless[0]} does nothing under mechanism = none. Drop it, or set gaussian.")
            return self
        for name, value in given.items():
            if value is None:
                raise ValueError(f"mechanism = gaussian needs {name}. Give it, or set mechanism: none.")
        if (self.noise_multiplier == "auto") != (self.target_epsilon is not None):
            raise ValueError("noise_multiplier = auto and target_epsilon need each other. Give both, or a number.")
        return self

    @property
    def clip_norms(self) -> dict[str, float]:
        """Part of a sum ("type", "shared") -> C."""
        assert self.clip_norm is not None
        return {"type": self.clip_norm, "shared": self.shared_clip_norm or self.clip_norm}


class SecureAggregationOptions(Section):
    """Simulation of secure aggregation: the server gets the sum of a model type's updates, and no single one."""

    enabled: Flag = False
    """Whether updates travel masked."""
    threshold: Annotated[Number, Field(gt=0.5, le=1)] = 0.6
    """Share of a model type's clients in a round that must stay to the end, above 0.5 and at most 1, rounded up."""
