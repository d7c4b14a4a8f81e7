"""What a run with noise has spent so far: epsilon of each model type, and of the fleet, which is that of its worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from heterotune.adapters.layout import AdapterLayout
from heterotune.config.privacy_options import PrivacyOptions
from heterotune.privacy.accountant import SampledGaussian, calibrate, spent_epsilon
from heterotune.privacy.gaussian_mechanism import check_range, parts_of


class PrivacyAccount:
    """One strategy's account. Its only state is the number of rounds whose sums got noise."""

    def __init__(
        self, options: PrivacyOptions, layouts: Sequence[AdapterLayout], populations: Mapping[int, tuple[int, int]]
    ) -> None:
        """Begin with nothing spent.

        Args:
            options: Section privacy, with noise and with a number for its multiplier.
            layouts: Of all model types.
            populations: Place of a model type -> its clients with rows, and how many of them a round draws.
        """
        assert isinstance(options.noise_multiplier, float)
        self._delta, self._noise_multiplier = options.delta, options.noise_multiplier
        self._mechanisms = {
            layouts[place].model_type: SampledGaussian(
                clients, drawn, len(parts_of(layouts[place])), self._noise_multiplier
            )
            for place, (clients, drawn) in populations.items()
        }
        self.num_rounds = 0

    def epsilons(self) -> dict[str, float]:
        """Return model type -> epsilon after the rounds so far."""
        return {name: _spent(one, self.num_rounds, self._delta) for name, one in self._mechanisms.items()}

    def metrics(self) -> list[dict[str, Any]]:
        """Return the account as metrics; the line without a model type is the fleet's."""
        told = {"name": "privacy/epsilon", "unit": "epsilon", "delta": self._delta}
        epsilons = self.epsilons()
        lines = [{**told, "model_type": name, "value": epsilon} for name, epsilon in epsilons.items()]
        noise = {"name": "privacy/noise_multiplier", "value": self._noise_multiplier, "unit": "clip norms"}
        return [*lines, {**told, "value": max(epsilons.values())}, noise]


def picked_noise(
    options: PrivacyOptions,
    layouts: Sequence[AdapterLayout],
    populations: Mapping[int, tuple[int, int]],
    *,
    num_rounds: int,
) -> PrivacyOptions:
    """Return the options with what "auto" means for a run: the multiplier that its worst model type needs.

    Args:
        options: Section privacy, with noise.
        layouts: Of all model types, under each method of the run.
        populations: As in `PrivacyAccount`, under the places of `layouts`.
        num_rounds: Of the whole run.

    Raises:
        ConfigError: If the noise leaves the range of exact sums, or dp-accounting is not installed.
    """
    if options.noise_multiplier == "auto":
        cases = {(*populations[place], len(parts_of(layout))) for place, layout in enumerate(layouts)}
        needed = (
            calibrate(
                options.target_epsilon or 0.0,
                fleet_clients=clients,
                cohort_clients=drawn,
                num_parts=num_parts,
                num_rounds=num_rounds,
                delta=options.delta,
            )
            for clients, drawn, num_parts in sorted(cases)
        )
        options = options.model_copy(update={"noise_multiplier": max(needed), "target_epsilon": None})
    assert isinstance(options.noise_multiplier, float)
    check_range(options.clip_norms, options.noise_multiplier)
    spent_epsilon(SampledGaussian(1, 1, 1, options.noise_multiplier), num_rounds=0, delta=options.delta)  # is it there?
    return options


@lru_cache(maxsize=64)
def _spent(mechanism: SampledGaussian, num_rounds: int, delta: float) -> float:
    return spent_epsilon(mechanism, num_rounds=num_rounds, delta=delta)
