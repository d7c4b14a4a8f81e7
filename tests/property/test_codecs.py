"""What each codec of the wire promises: bounds on the error, no bias where none is claimed, nothing lost for good."""

from __future__ import annotations

import contextlib
import math
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from heterotune.adapters.layout import AdapterLayout, TensorSpec
from heterotune.aggregation.exact import ExactSum
from heterotune.client_store import ClientStore
from heterotune.collective import wire
from heterotune.collective.int8_blocks import BLOCK
from heterotune.collective.ledger import Ledger
from heterotune.config.engine_options import CollectiveConfig
from heterotune.errors import WireError
from heterotune.fleet.chunks import Chunk
from heterotune.fleet.clients import Client
from heterotune.training.local import TrainedChunk
from heterotune.uplink import send_updates

MODERATE = hypothesis_numpy.arrays(
    np.float32, st.integers(0, 600), elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=True)
)
ANY = hypothesis_numpy.arrays(np.float32, st.integers(0, 600))
SHARES = st.floats(0.001, 1.0)
LOSSY = st.sampled_from(["bf16", "int8", "topk"])


def travel(values: np.ndarray, codec: str, seed: int = 0, share: float = 0.1) -> np.ndarray:
    message = wire.encode(values, codec, np.random.default_rng(seed), topk_share=share)
    return wire.decode(message, values.size)


@given(ANY)
def test_bf16_is_torchs_bfloat16(values):
    expected = torch.from_numpy(values).bfloat16().float().numpy()
    np.testing.assert_array_equal(travel(values, "bf16"), expected)  # NaN where NaN, infinities with their sign


def test_bf16_rounds_every_upper_half_as_torch_does():
    upper = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):  # 0x8000 is a tie
        values = (upper | np.uint32(lower)).view(np.float32)
        expected = torch.from_numpy(values).bfloat16().float().numpy()
        np.testing.assert_array_equal(travel(values, "bf16"), expected)


@given(MODERATE)
def test_bf16_is_off_by_at_most_half_a_unit(values):
    smallest_unit = 2.0**-133  # the smallest subnormal number
    bound = np.maximum(np.abs(values.astype(np.float64)) * 2.0**-8, smallest_unit)
    assert np.all(np.abs(travel(values, "bf16").astype(np.float64) - values) <= bound)


@given(MODERATE, st.integers(0, 2**32))
def test_int8_is_off_by_less_than_the_scale_of_the_block(values, seed):
    arrived = travel(values, "int8", seed)
    for start in range(0, values.size, BLOCK):
        block = values[start : start + BLOCK].astype(np.float64)
        scale = max(np.abs(block).max() / 127 * (1 + 2.0**-16), 2.0**-142)  # the smallest scale, of subnormal numbers
        assert np.all(np.abs(arrived[start : start + BLOCK] - block) < scale)
        if not block.any():
            assert not arrived[start : start + BLOCK].any()


def test_int8_is_right_on_average():
    values = np.random.default_rng(3).normal(size=2 * BLOCK).astype(np.float32)
    scale = np.abs(values.reshape(2, BLOCK)).max(axis=1).repeat(BLOCK) / 127
    num_draws = 2000
    mean_error = sum((travel(values, "int8", seed) - values) / scale for seed in range(num_draws)) / num_draws
    # One draw is off by at most half a scale (standard deviation): five and six times that of the means.
    assert np.abs(mean_error).max() < 5 * 0.5 / math.sqrt(num_draws)
    assert abs(mean_error.mean()) < 6 * 0.5 / math.sqrt(num_draws * values.size)


@given(MODERATE, SHARES)
def test_topk_sends_the_largest_as_they_are(values, share):
    arrived = travel(values, "topk", share=share)
    sent = np.flatnonzero(arrived)
    assert len(sent) <= max(1, round(share * values.size))
    np.testing.assert_array_equal(arrived[sent], values[sent])
    kept = np.abs(values[arrived == 0])
    assert not len(sent) or not kept.size or kept.max() <= np.abs(values[sent]).min()
    # The contraction on which convergence with error feedback rests (Stich et al., 2018, Lemma A.1).
    num_sent = min(values.size, max(1, round(share * values.size)))
    rest = (values.astype(np.float64) - arrived) ** 2
    if values.size:
        whole = np.sum(values.astype(np.float64) ** 2)
        assert rest.sum() <= (1 - num_sent / values.size) * whole * (1 + 1e-9)


@given(ANY, LOSSY)
def test_what_is_not_finite_arrives_as_not_finite(values, codec):
    arrived = travel(values, codec)
    assert np.isfinite(values).all() or not np.isfinite(arrived).all()
    if codec != "topk":
        assert not np.isfinite(arrived[~np.isfinite(values)]).any()


@given(ANY, LOSSY, st.integers(0, 2**32))
def test_equal_draws_give_equal_bytes(values, codec, seed):
    first, second = (wire.encode(values, codec, np.random.default_rng(seed), topk_share=0.3) for _ in range(2))
    assert first == second


@given(st.integers(1, 4), st.integers(0, 2**64 - 1), st.binary(max_size=120), st.integers(0, 60))
def test_payloads_with_a_right_checksum_give_numbers_or_wire_errors(number, elements, payload, expected):
    for claimed in (elements, expected):
        signed = b"HTUP\x01\x00" + number.to_bytes(2, "little") + claimed.to_bytes(8, "little")
        signed += len(payload).to_bytes(8, "little")
        message = signed + xxhash.xxh3_64_intdigest(signed + payload).to_bytes(8, "little") + payload
        tracemalloc.start()
        try:
            with contextlib.suppress(WireError):
                assert wire.decode(message, expected).shape == (expected,)
            with contextlib.suppress(WireError):
                wire.decode(message)
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak_bytes < 1 << 20


@given(st.lists(ANY, min_size=1, max_size=4), LOSSY, st.integers(0, 599))
def test_messages_in_a_row_are_read_as_one_array(parts, codec, cut):
    draw = np.random.default_rng(0)
    messages = [wire.encode(part, codec, draw, topk_share=1.0) for part in parts]
    num_elements = sum(part.size for part in parts)
    data = b"".join(messages)
    if codec == "topk" and len(parts) > 1:
        return  # each would need its own number of elements
    expected = np.concatenate([wire.decode(m, part.size) for m, part in zip(messages, parts, strict=True)])
    np.testing.assert_array_equal(wire.decode_all(data, num_elements), expected)
    with contextlib.suppress(WireError):
        wire.decode_all(data[: -1 - cut % len(data)], num_elements)
        raise AssertionError("a cut row of messages was read")


LAYOUT = AdapterLayout(
    "a",
    (
        TensorSpec("own", (3,), "client", "", "aa.client", "0"),
        TensorSpec("w", (5, 8), "type", "type/a/w", "dema.type", "0"),
        TensorSpec("head.S", (20,), "fleet", "fleet/head.S", "dema.head", "head"),
    ),
)
CLIENT = Client(4, 0, 10)


@given(st.integers(1, 6), st.integers(0, 2**32), st.floats(0.01, 0.5), st.booleans())
def test_error_feedback_loses_nothing(num_rounds, seed, share, whole_numbers):
    draw = np.random.default_rng(seed)
    sent_P, meant_P = torch.zeros(60, dtype=torch.float64), torch.zeros(60, dtype=torch.float64)
    with tempfile.TemporaryDirectory() as folder:
        store = ClientStore(Path(folder), run_seed=0)
        for round_number in range(1, num_rounds + 1):
            drawn = draw.integers(-100, 100, 63) if whole_numbers else draw.normal(size=63)
            update_1P = torch.from_numpy(drawn.astype(np.float32)).unsqueeze(0)
            exact = ExactSum(LAYOUT.num_travelling)
            trained = TrainedChunk(Chunk(0, (CLIENT,), (1,)), update_1P, update_1P, torch.zeros(1), torch.zeros(1))
            send_updates(
                trained,
                LAYOUT,
                exact,
                Ledger(),
                round_number=round_number,
                weight_K=torch.tensor([1.0], dtype=torch.float64),
                wire=CollectiveConfig(wire="topk", topk_share=share),
                run_seed=0,
                store=store,
            )
            sent_P += exact.to_float64()
            meant_P += update_1P[0, 3:]
        owed_P = store.load_residual(CLIENT.client_id, LAYOUT).double()
    assert torch.count_nonzero(owed_P) >= 1  # a share below 1 left something
    tolerance = 0.0 if whole_numbers else 1e-4  # whole numbers are added without rounding
    torch.testing.assert_close(sent_P + owed_P, meant_P, rtol=0.0, atol=tolerance)
