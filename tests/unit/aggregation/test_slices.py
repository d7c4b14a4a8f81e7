import pytest

from heterotune.aggregation.exact import BLOCK
from heterotune.aggregation.slices import cut

SIZES = {"small": 3, "exact": 2 * BLOCK, "long": 10 * BLOCK + 7, "empty": 0, "last": 100}


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 7, 50])
@pytest.mark.parametrize("holders", [dict.fromkeys(SIZES, 1), {"long": 3, "small": 1}, {"last": 2}, {}])
def test_every_element_has_one_owner_and_cuts_fall_between_blocks(num_ranks, holders):
    slices = cut(SIZES, holders, num_ranks)
    assert list(slices.sizes) == sorted(SIZES)
    covered = dict.fromkeys(SIZES, 0)
    for mpi_rank in range(num_ranks):
        for key, part in slices.of(mpi_rank).items():
            assert part.start == covered[key] and part.start % BLOCK == 0
            covered[key] = part.stop
    assert covered == SIZES
    assert (slices.bounds[0], slices.bounds[-1], len(slices.bounds)) == (0, sum(SIZES.values()), num_ranks + 1)


def test_work_is_shared_to_a_block():
    holders = {"long": 3, "exact": 1}
    slices = cut(SIZES, holders, 3)
    work = [
        sum(holders.get(key, 0) * (part.stop - part.start) for key, part in slices.of(mpi_rank).items())
        for mpi_rank in range(3)
    ]
    assert max(work) - min(work) <= 2 * 3 * BLOCK


def test_a_slice_begins_at_its_place_in_the_row_of_all_tensors():
    slices = cut(SIZES, dict.fromkeys(SIZES, 1), 2)
    first, second = slices.of(0), slices.of(1)
    key = next(iter(second))
    assert slices.starts[key] + second[key].start == slices.bounds[1]
    assert sum(part.stop - part.start for part in first.values()) == slices.bounds[1]
