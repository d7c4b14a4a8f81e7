"""Draws of many clients at once beside one generator a client."""

from __future__ import annotations

import numpy as np
import pytest

from heterotune.randomness import NO_ROUND, first_draws, generator


@pytest.mark.parametrize(("run_seed", "round_number"), [(0, NO_ROUND), (7, 3), (2**31 - 1, 1000)])
def test_first_draws_are_those_of_each_clients_generator(run_seed, round_number):
    client_ids = np.array([0, 5, -1, 999_999, 2**40, *range(1000, 1300)])
    expected = [generator(run_seed, round_number, client, "device").random() for client in client_ids.tolist()]
    assert first_draws(run_seed, round_number, client_ids, "device").tolist() == expected
    assert first_draws(run_seed, round_number, client_ids[:0], "device").shape == (0,)
