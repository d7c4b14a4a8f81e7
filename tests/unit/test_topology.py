"""Memory of a round: what is summed, packed and received stays where it was in the first round."""

from __future__ import annotations

import tracemalloc
from typing import get_args

import pytest
import torch

from heterotune.adapters.layout import AdapterLayout, TensorSpec
from heterotune.aggregation import exact
from heterotune.aggregation.round_sums import RoundSums
from heterotune.collective.single import SingleChannel
from heterotune.config.field_types import TopologyName
from heterotune.errors import AggregationError
from heterotune.server import GlobalAdapters
from heterotune.topology import CohortCounts, make_topology

NUM_ELEMENTS = 1_000_000
LAYOUT = AdapterLayout("a", (TensorSpec("w.V", (NUM_ELEMENTS,), "type", "type/a/w.V", "dema.type", "0"),))


def add_client(sums: RoundSums, weight: float = 1.0) -> None:
    update_KP = torch.ones(1, NUM_ELEMENTS)
    sums.begin([0])[0].add(update_KP, torch.tensor([weight], dtype=torch.float64), [0])


def setting(name):
    sums = RoundSums([LAYOUT.num_travelling])
    return sums, make_topology(name, GlobalAdapters([LAYOUT], run_seed=0), SingleChannel())


@pytest.mark.parametrize("name", get_args(TopologyName))
def test_later_rounds_allocate_no_buffer(name):
    sums, topology = setting(name)
    counts = CohortCounts({0: 1}, {0: 5})
    places = set()
    for round_number in range(3):
        add_client(sums)
        tracemalloc.start()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            updates = topology.gather(sums, counts)
        numpy_peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        largest = max(event.self_cpu_memory_usage for event in profile.events())
        assert largest <= 8 * exact._TILE_ELEMENTS < 8 * NUM_ELEMENTS / 4, round_number
        assert numpy_peak < NUM_ELEMENTS, round_number
        assert updates[0].mean["type/a/w.V"].eq(1.0).all()
        places.add((sums.as_array().ctypes.data, updates[0].mean["type/a/w.V"].data_ptr()))
    assert len(places) == 1


@pytest.mark.parametrize("name", get_args(TopologyName))
def test_a_lost_client_and_too_much_weight_are_noticed(name):
    sums, topology = setting(name)
    add_client(sums)
    with pytest.raises(AggregationError, match="update: 1 clients were added where 2 were expected"):
        topology.gather(sums, CohortCounts({0: 2}, {0: 5}))
    add_client(sums)
    sums.of_place[0].add(torch.ones(1, NUM_ELEMENTS), torch.tensor([0.5], dtype=torch.float64), [1])
    with pytest.raises(AggregationError, match="update: the weights of 2 clients add up to 1.5, more than 1"):
        topology.gather(sums, CohortCounts({0: 2}, {0: 5}))


def test_sums_of_a_round_begin_empty_and_lie_side_by_side():
    sums = RoundSums([3, 5, 2])
    sums.begin([0, 1])[1].add(torch.ones(1, 5), torch.tensor([0.5], dtype=torch.float64), [7])
    first = sums.as_array()
    assert first.size == 3 + 5 + 2 * exact.NUM_COUNTERS and first.any()
    begun = sums.begin([2, 0])
    assert list(begun) == [2, 0] and not sums.as_array().any()
    assert sums.as_array().size == 2 + 3 + 2 * exact.NUM_COUNTERS
    assert begun[2].as_array().ctypes.data == sums.as_array().ctypes.data == first.ctypes.data
