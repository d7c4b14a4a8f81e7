"""Epsilon against closed forms, against a bound that no sound accountant may go below, and its state."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from heterotune.errors import ConfigError
from heterotune.privacy.accountant import SampledGaussian, calibrate, spent_epsilon

DELTA = 1e-5


def normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def delta_of_gaussian(epsilon: float, multiplier: float) -> float:
    """Balle and Wang, "Improving the Gaussian Mechanism", 2018, theorem 8, for sensitivity 1."""
    a, b = 0.5 / multiplier, epsilon * multiplier
    return normal_cdf(a - b) - math.exp(epsilon) * normal_cdf(-a - b)


def all_clients(noise_multiplier: float, num_parts: int = 1) -> SampledGaussian:
    return SampledGaussian(20, 20, num_parts, noise_multiplier)


def some_clients(noise_multiplier: float, cohort_clients: int = 10, num_parts: int = 1) -> SampledGaussian:
    return SampledGaussian(100, cohort_clients, num_parts, noise_multiplier)


@pytest.mark.parametrize(("noise_multiplier", "num_parts", "num_rounds"), [(2.0, 1, 1), (8.0, 2, 1), (20.0, 2, 30)])
def test_without_sampling_epsilon_is_the_closed_form_for_two_clip_norms(noise_multiplier, num_parts, num_rounds):
    epsilon = spent_epsilon(all_clients(noise_multiplier, num_parts), num_rounds=num_rounds, delta=DELTA)
    multiplier = noise_multiplier / 2 / math.sqrt(num_parts * num_rounds)
    assert delta_of_gaussian(epsilon, multiplier) == pytest.approx(DELTA, rel=1e-6)


def test_the_known_calibration_for_epsilon_1():
    # sigma = 3.7306 for epsilon 1 and delta 1e-5 and sensitivity 1, as by delta_of_gaussian; the classical formula of
    # Dwork and Roth (2014, theorem A.1), sqrt(2 ln(1.25 / delta)) / epsilon, asks for 4.8448.
    assert delta_of_gaussian(1.0, 3.7306316) == pytest.approx(DELTA, rel=1e-6)
    z = calibrate(1.0, fleet_clients=20, cohort_clients=20, num_parts=1, num_rounds=1, delta=DELTA)
    assert 2 * 3.7306316 <= z <= 2 * 3.7306316 * 1.002 and z < 2 * math.sqrt(2 * math.log(1.25 / DELTA))


def delta_at_least(epsilon: float, sampling: float, multiplier: float) -> float:
    """Delta of one round for one pair of neighbours, integrated: a client that adds +C, replaced by one that adds -C.

    Everybody else adds 0, so the noisy sum is a mixture: the client was drawn, or it was not.
    """
    x = np.linspace(-30 * multiplier - 1, 30 * multiplier + 1, 400_001)
    density = [
        np.exp(-(((x - mean) / multiplier) ** 2) / 2) / multiplier / math.sqrt(2 * math.pi) for mean in (-0.5, 0.0, 0.5)
    ]
    before, after = ((1 - sampling) * density[1] + sampling * density[place] for place in (2, 0))
    return float(np.maximum(before - math.exp(epsilon) * after, 0.0).sum() * (x[1] - x[0]))


@pytest.mark.parametrize(("noise_multiplier", "cohort_clients"), [(2.0, 10), (4.0, 10), (2.0, 50), (3.0, 90)])
def test_no_epsilon_is_below_what_one_pair_of_neighbours_shows(noise_multiplier, cohort_clients):
    epsilon = spent_epsilon(some_clients(noise_multiplier, cohort_clients), num_rounds=1, delta=DELTA)
    assert delta_at_least(epsilon, cohort_clients / 100, noise_multiplier / 2) <= DELTA
    # ... and it is not far above: a fifth of it would be too little.
    assert delta_at_least(epsilon / 5, cohort_clients / 100, noise_multiplier / 2) > DELTA


def slow_sampled_epsilon(sampling: float, multiplier: float, num_rounds: int) -> float:
    """Wang, Balle and Kasiviswanathan (2019), theorem 9, and the usual conversion, in plain loops over orders."""
    best = math.inf
    for order in range(2, 64):
        total = 1.0 + sampling**2 * math.comb(order, 2) * min(
            4 * math.expm1(1 / multiplier**2), 2 * math.exp(1 / multiplier**2)
        )
        for j in range(3, order + 1):
            total += 2 * sampling**j * math.comb(order, j) * math.exp((j - 1) * j / 2 / multiplier**2)
        renyi = num_rounds * math.log(total) / (order - 1)
        best = min(best, renyi + math.log1p(-1 / order) - math.log(DELTA * order) / (order - 1))
    return best


@pytest.mark.parametrize(("noise_multiplier", "num_rounds"), [(4.0, 100), (8.0, 100), (8.0, 1000)])
def test_sampling_is_accounted_by_the_bound_for_fixed_cohorts(noise_multiplier, num_rounds):
    epsilon = spent_epsilon(some_clients(noise_multiplier), num_rounds=num_rounds, delta=DELTA)
    slow = slow_sampled_epsilon(0.1, noise_multiplier / 2, num_rounds)
    assert 0.5 * slow < epsilon <= slow * (1 + 1e-9)  # the library's bound for Gaussians is the tighter theorem 27


def test_two_parts_are_one_release_of_more():
    one = spent_epsilon(some_clients(4.0, num_parts=1), num_rounds=50, delta=DELTA)
    two = spent_epsilon(some_clients(4.0 * math.sqrt(2), num_parts=2), num_rounds=50, delta=DELTA)
    assert two == pytest.approx(one, rel=1e-9)


def test_epsilon_grows_with_rounds_and_falls_with_noise_and_smaller_cohorts():
    assert spent_epsilon(some_clients(4.0), num_rounds=0, delta=DELTA) == 0.0
    by_rounds = [spent_epsilon(some_clients(4.0), num_rounds=rounds, delta=DELTA) for rounds in (1, 10, 100)]
    by_noise = [spent_epsilon(some_clients(z), num_rounds=10, delta=DELTA) for z in (8.0, 4.0, 2.0)]
    by_cohort = [spent_epsilon(some_clients(4.0, clients), num_rounds=10, delta=DELTA) for clients in (1, 10, 60, 100)]
    for numbers in (by_rounds, by_noise, by_cohort):
        assert numbers == sorted(numbers) and numbers[0] < numbers[-1]


@pytest.mark.parametrize(("target", "cohort_clients"), [(2.0, 10), (2.0, 100), (30.0, 10)])
def test_calibration_meets_its_target_and_wastes_little(target, cohort_clients):
    z = calibrate(target, fleet_clients=100, cohort_clients=cohort_clients, num_parts=2, num_rounds=50, delta=DELTA)
    at_z, below = (
        spent_epsilon(some_clients(z * factor, cohort_clients, 2), num_rounds=50, delta=DELTA) for factor in (1, 0.995)
    )
    assert at_z <= target < below


def test_without_the_library_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ConfigError, match=r"needs the package dp-accounting .* Install heterotune\[privacy\]"):
        spent_epsilon(all_clients(1.0), num_rounds=1, delta=DELTA)
