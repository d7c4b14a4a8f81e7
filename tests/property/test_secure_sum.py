"""Whoever is lost and when: a secure sum is the plain sum of what arrived, or it is refused; never something else."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heterotune.errors import TooFewClients
from heterotune.privacy.secure_exchange import secure_sum
from heterotune.privacy.secure_sum import secure_group

INTEGERS = st.integers(-(2**63), 2**63 - 1)


@settings(max_examples=40)
@given(
    client_ids=st.lists(st.integers(0, 10**6), min_size=2, max_size=7, unique=True),
    threshold=st.floats(0.51, 1.0),
    num_elements=st.integers(0, 5),
    data=st.data(),
)
def test_a_secure_sum_is_the_plain_sum_or_refused(client_ids, threshold, num_elements, data):
    group = secure_group(client_ids, threshold=threshold, run_seed=3, round_number=1, model_type="a")
    arrived = data.draw(st.lists(st.sampled_from(client_ids), min_size=1, unique=True))
    staying = data.draw(st.lists(st.sampled_from(arrived), unique=True))
    rows = st.lists(INTEGERS, min_size=num_elements, max_size=num_elements)
    integers = {client_id: np.array(data.draw(rows), dtype=np.int64) for client_id in arrived}
    if min(len(arrived), len(staying)) < math.ceil(threshold * len(client_ids) - 1e-9):
        with pytest.raises(TooFewClients):
            secure_sum(group, integers, staying=staying)
    else:
        total_P, _ = secure_sum(group, integers, staying=staying)
        assert np.array_equal(total_P, np.sum([*integers.values()], axis=0))  # wraps around as sums modulo 2^64 do
