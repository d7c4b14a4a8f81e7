"""What is alive when most is, by component; tracking changes no bit and keeps nothing alive."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from heterotune.profiling.components import ACTIVATIONS, BUFFERS, LOGITS
from heterotune.profiling.tensor_tracker import TensorTracker

FLOATS = 4


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.LayerNorm(256), nn.Linear(256, 32))


def gradients(tracker: TensorTracker | None, model: nn.Module, rows: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad(set_to_none=False)
    if tracker is None:
        model(rows).logsumexp(-1).sum().backward()
    else:
        with tracker:
            model(rows).logsumexp(-1).sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tracking_changes_no_bit(dtype: torch.dtype) -> None:
    model, rows = network().to(dtype), torch.randn(16, 64, generator=torch.Generator().manual_seed(2)).to(dtype)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    plain = gradients(None, model, rows)
    tracked = gradients(TensorTracker(BUFFERS, {model: ACTIVATIONS}), model, rows)
    assert all(torch.equal(a, b) for a, b in zip(plain, tracked, strict=True))


def test_the_peak_is_split_by_who_made_the_tensors() -> None:
    body, head = nn.Linear(64, 256), nn.Linear(256, 1024)
    tracker = TensorTracker(BUFFERS, {body: ACTIVATIONS, head: LOGITS})
    given = torch.zeros(8, 64)
    with tracker:
        outside = torch.zeros(100)
        head(body(given))
    at_peak = tracker.result().at_peak["cpu"]
    assert at_peak == {BUFFERS: 100 * FLOATS, ACTIVATIONS: 8 * 256 * FLOATS, LOGITS: 8 * 1024 * FLOATS}
    assert outside.sum() == 0


def test_only_new_memory_counts() -> None:
    given, into = torch.zeros(50), torch.zeros(50)
    tracker = TensorTracker(BUFFERS, {})
    with tracker:
        given.view(5, 10).add_(1.0).unsqueeze(0).detach()
        torch.add(given, given, out=into)
    assert tracker.result().at_peak == {}


def test_what_is_gone_at_the_end_was_freed_and_nothing_is_kept_alive() -> None:
    tracker = TensorTracker(BUFFERS, {})
    with tracker:
        kept = torch.zeros(100)
        dropped = torch.zeros(1000)
        watched = weakref.ref(dropped.untyped_storage())
        del dropped
    gc.collect()
    assert watched() is None
    result = tracker.result()
    assert result.at_peak["cpu"][BUFFERS] == 1100 * FLOATS
    assert result.freed_bytes == 1000 * FLOATS
    assert len(kept) == 100


def test_after_stop_nothing_is_seen_and_the_hooks_are_gone() -> None:
    model = nn.Linear(4, 4)
    tracker = TensorTracker(BUFFERS, {model: ACTIVATIONS})
    with tracker:
        tracker.stop()
        torch.zeros(1000)
    assert tracker.result().at_peak == {}
    assert not model._forward_hooks and not model._forward_pre_hooks


def test_the_backward_pass_counts_as_activations() -> None:
    weight = torch.zeros(100, 100, requires_grad=True)
    tracker = TensorTracker(BUFFERS, {})
    loss = (weight * weight).sum()
    with tracker:
        loss.backward()
    assert tracker.result().at_peak["cpu"][ACTIVATIONS] >= weight.nbytes
    assert weight.grad is not None
