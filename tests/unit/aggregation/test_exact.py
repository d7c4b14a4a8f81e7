import math

import pytest
import torch

from heterotune.aggregation import exact
from heterotune.aggregation.exact import ExactSum, blocked_dot, quantize
from heterotune.errors import AggregationError


def weights(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_sum_is_the_weighted_mean_to_2_to_the_minus_51_per_client():
    update_KP = torch.randn(5, 1000, generator=torch.Generator().manual_seed(1))
    weight_K = weights(0.1, 0.2, 0.3, 0.15, 0.25)
    exact_sum = ExactSum(1000)
    exact_sum.add(update_KP, weight_K, range(5))
    expected_P = (update_KP.double() * weight_K.unsqueeze(1)).sum(dim=0)
    torch.testing.assert_close(exact_sum.to_float64(num_clients=5), expected_P, rtol=0, atol=5 * 2**-51 + 1e-15)


def test_quantize_rounds_ties_to_even():
    steps_1P = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, 3.0]], dtype=torch.float64) / 2.0**50
    assert quantize(steps_1P, weights(1.0), client_ids=[0]).tolist() == [[0, 2, 2, 0, -2, 3]]


def test_adding_together_is_adding_quantized_rows():
    update_KP = torch.randn(7, 300, generator=torch.Generator().manual_seed(2))
    weight_K = torch.full((7,), 1 / 7, dtype=torch.float64)
    exact_sum = ExactSum(300)
    exact_sum.add(update_KP, weight_K, range(7))
    rows_KP = quantize(update_KP, weight_K, client_ids=range(7))
    assert torch.equal(torch.from_numpy(exact_sum.as_array()[2:].copy()), rows_KP.sum(dim=0))


def test_tiles_change_nothing(monkeypatch):
    update_KP = torch.randn(3, 1001, generator=torch.Generator().manual_seed(3))
    sums = []
    for tile_elements in (1 << 17, 30, 1):
        monkeypatch.setattr(exact, "_TILE_ELEMENTS", tile_elements)
        sums.append(ExactSum(1001))
        sums[-1].add(update_KP, weights(0.2, 0.3, 0.5), range(3))
    assert torch.equal(sums[0].to_float64(), sums[1].to_float64())
    assert torch.equal(sums[0].to_float64(), sums[2].to_float64())


def test_the_largest_updates_do_not_overflow():
    largest = math.nextafter(exact.LIMIT, 0.0)
    update_KP = torch.full((4, 2), largest, dtype=torch.float64)
    exact_sum = ExactSum(2)
    exact_sum.add(update_KP * torch.tensor([1.0, -1.0]), weights(0.25, 0.25, 0.25, 0.25), range(4))
    assert exact_sum.to_float64().tolist() == [largest, -largest]


def test_as_array_is_the_sums_own_memory():
    exact_sum = ExactSum(2)
    exact_sum.add(torch.ones(1, 2), weights(0.25), [0])
    array = exact_sum.as_array()
    array += array.copy()
    assert exact_sum.num_clients == 2
    assert exact_sum.to_float64().tolist() == [0.5, 0.5]


def test_no_clients_and_no_elements():
    nothing = ExactSum(3)
    nothing.add(torch.zeros(0, 3), weights(), [])
    assert nothing.to_float64(num_clients=0).tolist() == [0.0, 0.0, 0.0]
    empty = ExactSum(0)
    empty.add(torch.zeros(2, 0), weights(0.5, 0.5), [0, 1])
    assert empty.to_float64(num_clients=2).shape == (0,)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_update_that_is_not_finite_names_the_client(value, dtype):
    update_KP = torch.zeros(3, 10, dtype=dtype)
    update_KP[1, 7] = value
    exact_sum = ExactSum(10, group="dema.core")
    with pytest.raises(AggregationError, match="client 42: its update of dema.core is not finite"):
        exact_sum.add(update_KP, weights(0.2, 0.2, 0.2), [7, 42, 9])
    assert exact_sum.num_clients == 0 and not exact_sum.as_array().any()
    with pytest.raises(AggregationError, match="client 42: its update of update is not finite"):
        quantize(update_KP, weights(0.2, 0.2, 0.2), client_ids=[7, 42, 9])


@pytest.mark.parametrize("value", [8192.0, -9e9])
def test_an_update_that_is_too_large_names_the_client(value):
    update_KP = torch.zeros(2, 4)
    update_KP[1, 0] = value
    with pytest.raises(AggregationError, match="client 3: its update of update reaches (8192|9e.09); 8192 and above"):
        ExactSum(4).add(update_KP, weights(0.5, 1e-9), [2, 3])


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan, math.inf])
def test_a_weight_that_is_no_share_names_the_client(weight):
    with pytest.raises(AggregationError, match=r"client 8: its weight in update is .*, not between 0 and 1"):
        ExactSum(1).add(torch.zeros(2, 1), weights(0.5, weight), [7, 8])
    with pytest.raises(AggregationError, match=r"client 8: its weight"):
        quantize(torch.zeros(2, 1), weights(0.5, weight), client_ids=[7, 8])


def test_weights_over_one_are_refused_because_the_sum_may_have_overflowed():
    exact_sum = ExactSum(1, group="head")
    exact_sum.add(torch.full((3, 1), 8000.0), weights(0.5, 0.5, 0.5), range(3))
    with pytest.raises(AggregationError, match="head: the weights of 3 clients add up to 1.5, more than 1"):
        exact_sum.to_float64()


def test_a_lost_client_is_noticed():
    exact_sum = ExactSum(1, group="head")
    exact_sum.add(torch.zeros(1, 1), weights(0.5), [0])
    with pytest.raises(AggregationError, match="head: 1 clients were added where 2 were expected"):
        exact_sum.to_float64(num_clients=2)


@pytest.mark.parametrize("num_elements", [0, 1, 2, 3, 1000, 65_535, 65_536, 65_537, 200_000])
def test_blocked_dot_is_a_dot_product(num_elements):
    generator = torch.Generator().manual_seed(num_elements)
    a_P, b_P = torch.randn(2, num_elements, generator=generator, dtype=torch.float64)
    expected = math.fsum((a_P * b_P).tolist())
    assert blocked_dot(a_P, b_P) == pytest.approx(expected, rel=1e-12, abs=1e-10)
    assert exact.block_dots(a_P, b_P).shape == (-(-num_elements // 65_536),)


def test_blocked_dot_bits_do_not_depend_on_threads_or_memory_layout():
    generator = torch.Generator().manual_seed(5)
    a_P, b_P = torch.randn(2, 200_001, generator=generator, dtype=torch.float64)
    padded_P = torch.zeros(200_002, dtype=torch.float64)
    padded_P[1:] = a_P
    before = torch.get_num_threads()
    try:
        results = set()
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            results |= {blocked_dot(a_P, b_P), blocked_dot(b_P, a_P), blocked_dot(padded_P[1:], b_P)}
    finally:
        torch.set_num_threads(before)
    assert len(results) == 1


def test_zeros_after_a_short_vector_change_no_bit():
    generator = torch.Generator().manual_seed(6)
    a_P, b_P = torch.randn(2, 777, generator=generator, dtype=torch.float64)
    longer = [torch.nn.functional.pad(vector_P, (0, 65_536 - 777)) for vector_P in (a_P, b_P)]
    assert blocked_dot(a_P, b_P) == blocked_dot(*longer)
