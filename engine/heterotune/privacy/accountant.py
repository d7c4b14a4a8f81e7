"""What a run with noise has spent: epsilon at a given delta, from dp-accounting (the extra `privacy`).

What is claimed, and for whom:

- Neighbours: two fleets in which one client holds other data (replace one). How many clients a type has is public.
- Sampling: a cohort is a fixed number of a model type's clients, drawn without replacement; this is accounted as such
  (Rényi bound of Wang, Balle and Kasiviswanathan, 2019), not as Poisson sampling, for which epsilon would look smaller.
  Model types are sampled apart and a client has one type: a fleet's epsilon is that of its worst type.
- Replacing a client moves a sum by up to 2 C, so noise of z C has the multiplier z / 2 there. Guarantees for adding or
  removing a client, as other libraries state them, are for C: compare them at half our multiplier.
- Both parts of a type's sum (its own tensors, the shared ones) use the same cohort: one release of two Gaussians.
- Protected are the sums of each round, so the global adapters and all that is computed from them (CMGA, server
  optimisers). Not protected: losses and counts in metrics; and nothing is from somebody who knows the run's seed.

The state is the number of rounds: nothing else has to be kept to go on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType

from heterotune.errors import ConfigError

_SENSITIVITY = 2.0
"""In units of C, when one client is replaced by another."""

_RELATIVE_STEP = 1e-3
"""Calibration ends when the multiplier is known this well; the larger end is returned."""

_ORDERS = [*range(2, 65), 80, 96, 128, 192, 256]
"""Rényi orders. Whole ones: the bound for sampling without replacement only interpolates between them."""


@dataclass(frozen=True)
class SampledGaussian:
    """What the clients of one model type take part in, every round.

    Attributes:
        fleet_clients: Clients of this type.
        cohort_clients: How many of them are drawn for a round.
        num_parts: Parts of the sum that get noise of their own, 1 or 2.
        noise_multiplier: z of each part: noise of standard deviation z * C on a sum of updates of norm C at most.
    """

    fleet_clients: int
    cohort_clients: int
    num_parts: int
    noise_multiplier: float


def spent_epsilon(mechanism: SampledGaussian, *, num_rounds: int, delta: float) -> float:
    """Return epsilon after a number of rounds, for one model type.

    It is the smaller of two bounds that both hold: with the amplification by sampling (Rényi), and without (exact).

    Raises:
        ConfigError: If dp-accounting is not installed.
    """
    dp = _dp_accounting()
    if num_rounds == 0:
        return 0.0
    alone = dp.get_epsilon_gaussian(_joint_multiplier(mechanism) / math.sqrt(num_rounds), delta)
    if mechanism.cohort_clients == mechanism.fleet_clients:
        return alone
    gaussian = dp.GaussianDpEvent(_joint_multiplier(mechanism))
    sampled = dp.SampledWithoutReplacementDpEvent(mechanism.fleet_clients, mechanism.cohort_clients, gaussian)
    accountant = dp.rdp.RdpAccountant(_ORDERS, dp.NeighboringRelation.REPLACE_ONE)
    return min(alone, accountant.compose(sampled, num_rounds).get_epsilon(delta))


def calibrate(
    target_epsilon: float, *, fleet_clients: int, cohort_clients: int, num_parts: int, num_rounds: int, delta: float
) -> float:
    """Return a noise multiplier z that keeps epsilon at or below a target, at most 0.1 % more than is needed.

    Raises:
        ConfigError: If dp-accounting is not installed.
    """

    def is_enough(noise_multiplier: float) -> bool:
        mechanism = SampledGaussian(fleet_clients, cohort_clients, num_parts, noise_multiplier)
        return spent_epsilon(mechanism, num_rounds=num_rounds, delta=delta) <= target_epsilon

    unsampled = _dp_accounting().get_sigma_gaussian(target_epsilon, delta)
    high = unsampled * _SENSITIVITY * math.sqrt(num_parts * num_rounds) * (1.0 + _RELATIVE_STEP)
    low = 0.0
    while high - low > _RELATIVE_STEP * high:
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def _joint_multiplier(mechanism: SampledGaussian) -> float:
    """Return the multiplier of one Gaussian that reveals as much as all parts: 1 / s² = Σ 1 / s_part²."""
    return mechanism.noise_multiplier / _SENSITIVITY / math.sqrt(mechanism.num_parts)


def _dp_accounting() -> ModuleType:
    """Import the library, or say how to get it."""
    try:
        import dp_accounting
        import dp_accounting.rdp
    except ImportError:
        told = "privacy.mechanism = gaussian needs the package dp-accounting to account for what it spends"
        raise ConfigError([f"{told}. Install heterotune[privacy], or set mechanism: none."]) from None
    return dp_accounting
