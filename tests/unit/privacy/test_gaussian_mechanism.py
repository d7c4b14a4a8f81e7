"""Clipping bounds a client exactly, noise has the wanted spread and is independent of everything else."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from heterotune.adapters.layout import AdapterLayout, TensorSpec
from heterotune.aggregation.exact import SCALE, ExactSum, quantize
from heterotune.errors import AggregationError, ConfigError
from heterotune.privacy.gaussian_mechanism import add_noise, check_range, clip_updates, noise, parts_of

NORMS = {"type": 2.0, "shared": 0.5}


def spec(name: str, scope: str, num_elements: int) -> TensorSpec:
    return TensorSpec(name, (num_elements,), scope, key=f"{scope}/{name}", group=f"g.{scope}", depth_class="0")


def layout(model_type: str = "small", sizes=(3, 4, 5, 2)) -> AdapterLayout:
    names = ("core", "own", "personal", "sibling")
    scopes = ("fleet", "type", "client", "width")
    tensors = tuple(spec(name, scope, size) for name, scope, size in zip(names, scopes, sizes, strict=True))
    return AdapterLayout(model_type, tensors)


def draws(num_clients: int, num_elements: int, scale: float) -> torch.Tensor:
    draw = np.random.Generator(np.random.Philox(key=num_clients))
    return torch.from_numpy(draw.standard_normal((num_clients, num_elements)) * scale).float()


def test_a_sum_has_two_parts():
    assert parts_of(layout()) == {"shared": [slice(0, 3), slice(7, 9)], "type": [slice(3, 7)]}
    only_type = AdapterLayout("a", (spec("own", "type", 4), spec("mine", "client", 3)))
    assert parts_of(only_type) == {"type": [slice(0, 4)]}


def test_each_part_is_clipped_to_its_own_norm():
    update_KP = torch.tensor([[3.0, 0, 0, 0, 0, 0, 1.0, 0, 4.0], [0.1, 0, 0, 5.0, 0, 0, 12.0, 0, 0.0]])
    before_KP = update_KP.clone()
    assert clip_updates(update_KP, layout(), NORMS, [1, 2]) == {"shared": 1, "type": 1}
    torch.testing.assert_close(update_KP[0], before_KP[0] * torch.tensor([0.1] * 3 + [1.0] * 4 + [0.1] * 2))
    torch.testing.assert_close(update_KP[1], before_KP[1] * torch.tensor([1.0] * 3 + [2 / 13] * 4 + [1.0] * 2))
    assert torch.equal(update_KP[0, 3:7], before_KP[0, 3:7]) and torch.equal(update_KP[1, :3], before_KP[1, :3])


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 1e4])
def test_no_rounding_lifts_a_client_above_its_bound(scale):
    wide = layout(sizes=(3000, 4000, 1, 2000))
    update_KP = draws(20, wide.num_travelling, scale)
    clip_updates(update_KP, wide, NORMS, range(20))
    weight_K = torch.full((20,), 1 / 20, dtype=torch.float64)
    integers_KP = quantize(update_KP, weight_K, client_ids=range(20)).numpy().astype(object)
    for part, places in parts_of(wide).items():
        for row_P in integers_KP:
            squared = sum(int(value) ** 2 for place in places for value in row_P[place])
            assert squared <= (NORMS[part] / 20 * SCALE) ** 2  # the integers that are added, exactly


def test_replacing_a_client_moves_the_sum_by_at_most_2_C_over_K():
    update_KP = torch.cat([draws(5, 9, 100.0), -draws(5, 9, 100.0)[:1]])
    clip_updates(update_KP, layout(), NORMS, range(6))
    sums = []
    for rows in ([0, 1, 2, 3, 4], [5, 1, 2, 3, 4]):
        exact = ExactSum(9)
        exact.add(update_KP[rows], torch.full((5,), 0.2, dtype=torch.float64), rows)
        sums.append(exact.to_float64())
    moved = float((sums[0] - sums[1])[3:7].norm())
    assert 0.999 * 2 * 2.0 / 5 < moved <= 2 * 2.0 / 5


def test_an_update_that_is_not_finite_is_refused():
    update_KP = torch.zeros(2, 9)
    update_KP[1, 4] = math.nan
    with pytest.raises(AggregationError, match="client 8: its update is not finite"):
        clip_updates(update_KP, layout(), NORMS, [7, 8])


def draw_noise(
    model_type="small", round_number=1, run_seed=17, noise_multiplier=3.0, sizes=(20_000, 20_000, 1, 20_000)
):
    chosen = layout(model_type, sizes)
    noise_P = noise(
        chosen, NORMS, noise_multiplier=noise_multiplier, num_clients=8, run_seed=run_seed, round_number=round_number
    )
    assert noise_P.dtype == np.int64
    return {name: noise_P[place] / SCALE for name, place in chosen.travelling_columns.items()}


def test_noise_is_normal_with_the_deviation_of_its_part():
    for name, values in draw_noise().items():
        deviation = 3.0 * NORMS["type" if name == "own" else "shared"] / 8
        assert abs(values.mean()) < 4 * deviation / math.sqrt(20_000)
        assert values.std() == pytest.approx(deviation, rel=4 / math.sqrt(2 * 20_000))
        normal = np.array([0.5 * math.erfc(-value / deviation / math.sqrt(2)) for value in np.sort(values)])
        steps = np.arange(20_000) / 20_000
        assert max((normal - steps).max(), (steps + 1 / 20_000 - normal).max()) < 1.95 / math.sqrt(20_000)  # p = 0.001


def test_noise_depends_on_round_tensor_model_type_and_seed_and_on_nothing_else():
    first = draw_noise()
    again = draw_noise(sizes=(20_000, 20_000, 1, 5))
    assert np.array_equal(first["core"], again["core"])  # other tensors do not matter
    drawn = [*first.values()]
    for other in ({"round_number": 2}, {"model_type": "large"}, {"run_seed": 18}):
        drawn += draw_noise(**other).values()
    for one, two in combinations(drawn, 2):
        assert abs(np.corrcoef(one, two)[0, 1]) < 4.5 / math.sqrt(20_000)
    doubled = draw_noise(noise_multiplier=6.0)
    np.testing.assert_allclose(doubled["own"], 2 * first["own"], atol=2**-49)


def test_noise_on_the_sum_is_the_same_however_ranks_shared_the_clients():
    update_KP = draws(6, 9, 0.1)
    weight_K = torch.full((6,), 1 / 6, dtype=torch.float64)
    noise_P = noise(layout(), NORMS, noise_multiplier=1.0, num_clients=6, run_seed=1, round_number=3)
    results = []
    for groups in ([range(6)], [[5, 1], [0], [4, 3, 2]]):
        total = ExactSum(9)
        for group in groups:
            part = ExactSum(9)
            part.add(update_KP[list(group)], weight_K[list(group)], list(group))
            total.merge(part)
        plain_P = total.to_float64(num_clients=6)
        add_noise(total, noise_P)
        results.append(total.to_float64(num_clients=6))
        assert torch.equal(results[-1] - plain_P, torch.from_numpy(noise_P / SCALE))
    assert torch.equal(*results)


def test_noise_that_the_exact_sums_cannot_hold_is_refused():
    check_range(NORMS, 50.0)
    with pytest.raises(
        ConfigError, match=r"clip_norm 2 \(type\) with noise_multiplier 200 leaves the range of exact sums"
    ):
        check_range(NORMS, 200.0)
