"""The Gaussian mechanism on a round's sums: a bound on what one client adds, and noise that hides it.

A model type's sum of travelling tensors has two parts: "type" (scope "type") and "shared" (scopes "width" and "fleet").
In each part a client's update is clipped to a norm C, all K clients of the cohort weigh 1 / K, and the sum of the round
gets noise of standard deviation z C / K, once. Weights are neither the clients' rows nor a function of who was left: a
client that sends nothing adds zero, and K stays the number that was planned.

Noise is integers of the exact sum's grid. The sum is integers, too, so rounding the noise is rounding the noisy sum:
processing afterwards, which costs no privacy. Each tensor has a draw of its own, so no number of ranks changes a bit.

Shape letters: K clients, P parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from heterotune.adapters.layout import AdapterLayout, TensorSpec
from heterotune.aggregation.distances import check_finite, squared_norm
from heterotune.aggregation.exact import LIMIT, SCALE, ExactSum
from heterotune.errors import ConfigError
from heterotune.randomness import NO_CLIENT, generator

MARGIN = 1.0 - 2.0**-20
"""Clipping aims this much below C, so that no rounding (float32, the exact sum's integers) lifts a client above C."""

_MOST_DEVIATIONS = 40.0
"""No draw comes near this many standard deviations: Gaussian tails are below 10^-300 there."""


def part_of(spec: TensorSpec) -> str:
    """Return the part of the sum that a travelling tensor belongs to, "type" or "shared"."""
    return "type" if spec.scope == "type" else "shared"


def parts_of(layout: AdapterLayout) -> dict[str, list[slice]]:
    """Return part -> its places in the vector of what a client sends; parts without tensors are left out."""
    parts: dict[str, list[slice]] = {}
    for spec in layout.travelling:
        parts.setdefault(part_of(spec), []).append(layout.travelling_columns[spec.name])
    return parts


def clip_updates(
    update_KP: Tensor, layout: AdapterLayout, clip_norms: dict[str, float], client_ids: Sequence[int]
) -> dict[str, int]:
    """Scale each client's parts down to their norms, in place: u *= min(1, C / ‖u‖).

    Args:
        update_KP: One row per client, as decoded, float32 or float64. Changed in place.
        layout: The adapter of the clients' model type.
        clip_norms: Part -> C.
        client_ids: K client ids, for messages.

    Returns:
        Part -> how many clients were longer than C.

    Raises:
        AggregationError: If an update is not finite; names the client.
    """
    check_finite(update_KP, client_ids)
    num_clipped = {}
    for part, places in parts_of(layout).items():
        num_clipped[part] = sum(_clip_row(row_P, places, clip_norms[part]) for row_P in update_KP)
    return num_clipped


def noise(
    layout: AdapterLayout,
    clip_norms: dict[str, float],
    *,
    noise_multiplier: float,
    num_clients: int,
    run_seed: int,
    round_number: int,
) -> np.ndarray:
    """Return the noise of one model type's sum of weights 1 / K in a round.

    Args:
        layout: The model type's adapter.
        clip_norms: Part -> C.
        noise_multiplier: z.
        num_clients: K, the clients of this type in the planned cohort.
        run_seed: The run's seed. Who knows it can take the noise off again: a simulation, not a deployment.
        round_number: The round.

    Returns:
        int64 multiples of 2^-50, shape (P,), normal with standard deviation z C / K of the tensor's part.
    """
    noise_P = np.empty(layout.num_travelling, dtype=np.int64)
    for spec in layout.travelling:
        deviation = noise_multiplier * clip_norms[part_of(spec)] / num_clients
        draw = generator(run_seed, round_number, NO_CLIENT, f"privacy/{layout.model_type}/{spec.key}")
        values = np.rint(draw.standard_normal(spec.num_elements) * (deviation * SCALE))
        noise_P[layout.travelling_columns[spec.name]] = values.astype(np.int64)
    return noise_P


def add_noise(exact: ExactSum, noise_P: np.ndarray) -> None:
    """Add noise to a finished sum, in place. Once a round, where the sum of all ranks is."""
    assert noise_P.dtype == np.int64 and noise_P.shape == (exact.num_elements,)
    exact.sum_P.numpy()[:] += noise_P


def check_range(clip_norms: dict[str, float], noise_multiplier: float) -> None:
    """Refuse noise that the exact sums cannot hold, before a run begins.

    Raises:
        ConfigError: If a clipped sum with noise could leave int64 even with a single client.
    """
    for part, clip_norm in clip_norms.items():
        if clip_norm * (1.0 + _MOST_DEVIATIONS * noise_multiplier) >= LIMIT:
            told = f"privacy: clip_norm {clip_norm:g} ({part}) with noise_multiplier {noise_multiplier:g}"
            raise ConfigError([f"{told} leaves the range of exact sums, {LIMIT:.0f}. Lower one of them."])


def _clip_row(row_P: Tensor, places: Sequence[slice], clip_norm: float) -> bool:
    """Scale some columns of one client down to a norm, in place; returns whether they were longer."""
    norm = sum(squared_norm(row_P[place]) for place in places) ** 0.5
    bound = clip_norm * MARGIN
    if norm > bound:
        for place in places:
            row_P[place] *= bound / norm
    return norm > clip_norm
