"""Order and grouping of clients never change a sum."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from heterotune.aggregation.exact import ExactSum

NUM_ELEMENTS = 4
VALUES = st.floats(-8000.0, 8000.0, width=32)
ROWS = st.lists(st.lists(VALUES, min_size=NUM_ELEMENTS, max_size=NUM_ELEMENTS), min_size=1, max_size=12)


@given(rows=ROWS, data=st.data())
def test_order_and_grouping_never_change_the_sum(rows, data):
    num_clients = len(rows)
    num_tokens = data.draw(st.lists(st.integers(1, 10**6), min_size=num_clients, max_size=num_clients))
    order = data.draw(st.permutations(range(num_clients)))
    groups = data.draw(st.lists(st.integers(0, 3), min_size=num_clients, max_size=num_clients))
    update_KP = torch.tensor(rows, dtype=torch.float32)
    weight_K = torch.tensor([count / sum(num_tokens) for count in num_tokens], dtype=torch.float64)

    at_once = ExactSum(NUM_ELEMENTS)
    at_once.add(update_KP, weight_K, range(num_clients))
    parts = [ExactSum(NUM_ELEMENTS) for _ in range(4)]
    for group in range(4):
        members = [client_id for client_id in order if groups[client_id] == group]
        parts[group].add(update_KP[members], weight_K[members], members)
    merged = ExactSum(NUM_ELEMENTS)
    for part in reversed(parts):
        merged.merge(part)

    np.testing.assert_array_equal(merged.as_array(), at_once.as_array())
    assert torch.equal(merged.to_float64(num_clients=num_clients), at_once.to_float64(num_clients=num_clients))
    bound = float(update_KP.abs().max())
    assert float(at_once.to_float64().abs().max()) <= bound + 1e-6  # a mean, so nothing overflowed
