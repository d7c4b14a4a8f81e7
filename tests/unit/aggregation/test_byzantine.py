"""What hostile clients send."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from heterotune.aggregation.byzantine import hostile_update
from heterotune.config.fault_options import Byzantine
from heterotune.randomness import generator


def send(update_P: torch.Tensor, client_id: int = 3, round_number: int = 1, **options) -> torch.Tensor:
    draw = generator(17, round_number, client_id, "byzantine")
    return hostile_update(update_P, Byzantine(share=0.5, **options), draw)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"behaviour": "sign_flip"}, [-1.0, 2.0]),
        ({"behaviour": "scale"}, [10.0, -20.0]),
        ({"behaviour": "scale", "factor": -0.5}, [-0.5, 1.0]),
        ({"behaviour": "same_value"}, [1.0, 1.0]),
        ({"behaviour": "same_value", "value": 1e39}, [float("inf"), float("inf")]),
        ({"behaviour": "same_value", "value": -3.0}, [-3.0, -3.0]),
        ({"behaviour": "zero"}, [0.0, 0.0]),
    ],
    ids=str,
)
def test_each_behaviour_without_noise(options, expected):
    update_P = torch.tensor([1.0, -2.0])
    sent_P = send(update_P, **options)
    assert sent_P.tolist() == expected and sent_P.dtype == torch.float32
    assert update_P.tolist() == [1.0, -2.0] and sent_P.data_ptr() != update_P.data_ptr()


def test_noise_has_the_wanted_spread_and_depends_on_client_and_round():
    update_P = torch.full((20_000,), 2.0)
    sent_P = send(update_P, behaviour="gaussian_noise", sigma=0.5)
    assert sent_P.dtype == torch.float32
    assert float(sent_P.mean()) == pytest.approx(2.0, abs=0.02)
    assert float(sent_P.std()) == pytest.approx(0.5, rel=0.03)
    assert torch.equal(sent_P, send(update_P, behaviour="gaussian_noise", sigma=0.5))
    for other in ({"client_id": 4}, {"round_number": 2}):
        elsewhere_P = send(update_P, behaviour="gaussian_noise", sigma=0.5, **other)
        assert abs(np.corrcoef(sent_P, elsewhere_P)[0, 1]) < 0.03
