"""Dot products of whole vectors, and of vectors of which everybody has a part."""

from __future__ import annotations

import weakref

import numpy as np
import torch

from heterotune.aggregation.exact import BLOCK, blocked_dot
from heterotune.aggregation.gram import BlockProducts, add_up, block_products, whole_grams

SIZES = {"b": 3 * BLOCK + 5, "a": 7, "c": 0, "d": 9 * BLOCK}


def family(num_vectors: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    return [
        {key: torch.randn(size, generator=draw, dtype=torch.float64) for key, size in SIZES.items()}
        for _ in range(num_vectors)
    ]


def test_a_gram_matrix_has_all_dot_products():
    vectors = family(3)
    flat_VP = np.stack([torch.cat([vector[key] for key in SIZES]).numpy() for vector in vectors])
    [gram] = whole_grams([vectors])
    np.testing.assert_allclose(gram, flat_VP @ flat_VP.T, rtol=1e-12, atol=1e-8)
    assert np.array_equal(gram, np.transpose(gram))


def test_one_tensor_is_a_blocked_dot_bit_for_bit():
    one, other = ({"x": torch.cat([vector["b"], vector["d"]])} for vector in family(2))
    [gram] = whole_grams([[one, other]])
    assert gram == [[blocked_dot(a["x"], b["x"]) for b in (one, other)] for a in (one, other)]


def test_tensors_are_added_in_the_order_of_keys_whatever_order_they_come_in():
    vectors = family(2)
    shuffled = [{key: vector[key] for key in reversed(vector)} for vector in vectors]
    assert whole_grams([vectors]) == whole_grams([shuffled])


def test_parts_between_blocks_give_the_blocks_of_the_whole():
    vectors = family(3)
    whole = block_products(vectors)
    parts = [
        block_products([{key: vector[key][start:stop] for key in vector} for vector in vectors])
        for start, stop in ((0, BLOCK), (BLOCK, 6 * BLOCK), (6 * BLOCK, None))
    ]
    joined = {key: torch.cat([part.of_key[key] for part in parts]) for key in SIZES}
    assert all(torch.equal(joined[key], whole.of_key[key]) for key in SIZES)
    assert add_up(BlockProducts(3, joined)) == add_up(whole)


def test_families_are_not_kept():
    class Vector(dict):
        """A dict that can be pointed at weakly."""

    seen = []

    def families():
        for seed in range(4):
            assert all(vector() is None for vector in seen[:-1]), "only the family before may still be held"
            vector = Vector(family(1, seed)[0])
            seen.append(weakref.ref(vector))
            yield [vector]
            del vector

    assert len(whole_grams(families())) == 4
