import math

import pytest
import torch

from heterotune.aggregation.cmga import align
from heterotune.errors import AggregationError


def tensor(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_one_type_keeps_its_update_bit_for_bit():
    update_MP = torch.randn(1, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    update_MP[0, 0] = -0.0
    before_MP = update_MP.clone()
    combined_P, diagnostics = align(update_MP, weight_M=tensor(1.0), rescale=True)
    assert combined_P.numpy().tobytes() == before_MP[0].numpy().tobytes()
    assert combined_P.data_ptr() != update_MP.data_ptr() and torch.equal(update_MP, before_MP)
    assert (diagnostics.num_conflicts, diagnostics.norm_ratio) == (0, 1.0)
    assert diagnostics.cosine_MM.tolist() == [[pytest.approx(1.0)]]
    assert diagnostics.min_alignment == pytest.approx(float((before_MP**2).sum()))


def test_two_conflicting_types_by_hand():
    # Each loses its part against the other: (0, 1) stays at (1, 1) / 2, and (-1, 1) stays at (0, 1).
    combined_P, diagnostics = align(tensor([1.0, 0.0], [-1.0, 1.0]), weight_M=tensor(0.5, 0.5), rescale=False)
    assert combined_P.tolist() == pytest.approx([0.25, 0.75])
    assert diagnostics.num_conflicts == 1
    assert diagnostics.cosine_MM[0, 1] == pytest.approx(-math.sqrt(0.5))
    assert diagnostics.norm_ratio == pytest.approx(math.sqrt(0.625) / 0.5)
    assert diagnostics.min_alignment == pytest.approx(0.25)


def test_rescaling_keeps_the_plain_means_norm():
    combined_P, diagnostics = align(tensor([1.0, 0.0], [-1.0, 1.0]), weight_M=tensor(0.5, 0.5), rescale=True)
    assert float(combined_P.norm()) == pytest.approx(0.5)
    assert combined_P.tolist() == pytest.approx([0.25 / math.sqrt(2.5), 0.75 / math.sqrt(2.5)])
    assert diagnostics.norm_ratio == pytest.approx(math.sqrt(0.625) / 0.5)


def test_opposite_updates_cancel_and_rounding_error_is_not_scaled_up():
    row_P = torch.randn(1000, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    combined_P, diagnostics = align(torch.stack([row_P, row_P * -3.7]), weight_M=tensor(0.3, 0.7), rescale=True)
    assert float(combined_P.norm()) < 1e-12
    assert diagnostics.norm_ratio < 1e-12


def test_a_plain_mean_of_zero():
    rows_MP = tensor([1.0, 0.0], [-0.5, math.sqrt(0.75)], [-0.5, -math.sqrt(0.75)])
    combined_P, diagnostics = align(rows_MP * 3, weight_M=tensor(0.25, 0.5, 0.25), rescale=False)
    assert diagnostics.num_conflicts == 3 and torch.isfinite(combined_P).all()
    _, diagnostics = align(torch.zeros(2, 3, dtype=torch.float64), weight_M=tensor(0.5, 0.5), rescale=True)
    assert (diagnostics.num_conflicts, diagnostics.norm_ratio, diagnostics.min_alignment) == (0, 1.0, 0.0)
    assert diagnostics.cosine_MM.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    exact_MP = tensor([1.0, 0.0], [-1.0, 0.0])
    combined_P, diagnostics = align(exact_MP, weight_M=tensor(0.5, 0.5), rescale=True)
    assert combined_P.tolist() == [0.0, 0.0] and diagnostics.norm_ratio == 1.0


def test_no_elements():
    combined_P, diagnostics = align(torch.zeros(2, 0, dtype=torch.float64), weight_M=tensor(0.5, 0.5), rescale=True)
    assert combined_P.shape == (0,) and diagnostics.min_alignment == 0.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_names_the_model_type(value):
    update_MP = torch.zeros(3, 4, dtype=torch.float64)
    update_MP[2, 1] = value
    weight_M = tensor(0.25, 0.25, 0.5)
    with pytest.raises(AggregationError, match="update of model type 2 is not finite"):
        align(update_MP, weight_M=weight_M, rescale=True)
    with pytest.raises(AggregationError, match=r"update of model type 2 \(large\) is not finite"):
        align(update_MP, weight_M=weight_M, rescale=True, model_types=["a", "b", "large"])


@pytest.mark.parametrize(
    ("update_MP", "weight_M"),
    [
        (torch.zeros(2, 3), tensor(0.5, 0.5)),
        (torch.zeros(2, 3, dtype=torch.float64), tensor(0.5, 0.4)),
        (torch.zeros(2, 3, dtype=torch.float64), tensor(1.0)),
        (torch.zeros(0, 3, dtype=torch.float64), tensor()),
    ],
)
def test_our_own_mistakes_are_asserted(update_MP, weight_M):
    with pytest.raises(AssertionError):
        align(update_MP, weight_M=weight_M, rescale=True)
