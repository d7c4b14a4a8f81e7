"""The block-wise frozen head against PyTorch's cross entropy on whole logits."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from heterotune.backbone import logit_blocks
from heterotune.backbone.head_loss import HeadLoss, OwnHeads


def make_inputs(num_tokens, vocab_size=50, width=8, basis=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_tokens, width, generator=draw, requires_grad=True)
    features = torch.randn(num_tokens, basis, generator=draw, requires_grad=True)
    weight = torch.nn.Parameter(torch.randn(vocab_size, width, generator=draw), requires_grad=False)
    basis_QV = torch.randn(basis, vocab_size, generator=draw)
    targets = torch.randint(0, vocab_size, (num_tokens,), generator=draw)
    return hidden, features, weight, basis_QV, targets


@pytest.mark.parametrize("num_tokens", [0, 1, 63, 64, 65, 200])
@pytest.mark.parametrize("with_features", [True, False])
def test_losses_and_gradients_are_those_of_whole_logits(monkeypatch, num_tokens, with_features):
    monkeypatch.setattr(logit_blocks, "BLOCK_ELEMENTS", 1)  # blocks of 64 tokens
    hidden, features, weight, basis, targets = make_inputs(num_tokens)
    per_token = torch.linspace(0.1, 2.0, num_tokens)
    extra = (features, basis) if with_features else (None, None)
    losses = HeadLoss(weight)(hidden, targets, *extra)
    (losses * per_token).sum().backward()
    got = [hidden.grad.clone()] + ([features.grad.clone()] if with_features else [])
    hidden.grad = features.grad = None
    logits = hidden @ weight.T + (features @ basis if with_features else 0.0)
    expected = F.cross_entropy(logits, targets, reduction="none")
    (expected * per_token).sum().backward()
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(got[0], hidden.grad)
    if with_features:
        torch.testing.assert_close(got[1], features.grad)


def test_without_gradients_the_losses_are_the_same():
    hidden, features, weight, basis, targets = make_inputs(130)
    head = HeadLoss(weight)
    with_grad = head(hidden, targets, features, basis)
    with torch.no_grad():
        assert torch.equal(head(hidden, targets, features, basis), with_grad)


@pytest.mark.parametrize("num_tokens", [(70,), (70, 0, 1, 129), (0, 0)], ids=str)
def test_clients_own_heads_are_their_whole_logits(monkeypatch, num_tokens):
    """Every token weighs differently, a client may have none, and the frozen weight stays out of it."""
    monkeypatch.setattr(logit_blocks, "BLOCK_ELEMENTS", 1)
    hidden, _, weight, _, targets = make_inputs(sum(num_tokens))
    draw = torch.Generator().manual_seed(1)
    own = torch.randn(len(num_tokens), *weight.shape, generator=draw, requires_grad=True)
    per_token = torch.linspace(0.1, 2.0, sum(num_tokens))
    losses = HeadLoss(weight)(hidden, targets, None, None, OwnHeads(own, num_tokens))
    (losses * per_token).sum().backward()
    got = hidden.grad.clone(), own.grad.clone()
    hidden.grad = own.grad = None
    parts = zip(hidden.split(num_tokens), weight + own, strict=True)
    expected = F.cross_entropy(torch.cat([part @ head.T for part, head in parts]), targets, reduction="none")
    (expected * per_token).sum().backward()
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(got, (hidden.grad, own.grad))


@pytest.mark.parametrize("with_own_heads", [False, True])
def test_no_tensor_is_as_large_as_all_logits(monkeypatch, with_own_heads):
    monkeypatch.setattr(logit_blocks, "BLOCK_ELEMENTS", 1)
    hidden, features, weight, basis, targets = make_inputs(640)
    own = OwnHeads(torch.zeros(2, *weight.shape, requires_grad=True), (320, 320)) if with_own_heads else None
    extra = (None, None, own) if with_own_heads else (features, basis)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            for value in result if isinstance(result, tuple) else (result,):
                if isinstance(value, torch.Tensor):
                    largest = max(largest, value.numel())
            return result

    with Watch():
        HeadLoss(weight)(hidden, targets, *extra).sum().backward()
    assert largest < 640 * weight.shape[0] / 4


@pytest.mark.parametrize("kind", ["plain", "branch", "own heads"])
@pytest.mark.parametrize("num_tokens", [(70, 0, 3), (0, 0)], ids=str)
def test_log_probabilities_of_the_whole_vocabulary_are_those_that_the_loss_picks_from(kind, num_tokens):
    hidden, features, weight, basis, targets = make_inputs(sum(num_tokens))
    own = torch.randn(len(num_tokens), *weight.shape, generator=torch.Generator().manual_seed(1))
    extra = {
        "plain": (None, None, None),
        "branch": (features, basis, None),
        "own heads": (None, None, OwnHeads(own, num_tokens)),
    }[kind]
    found = HeadLoss(weight)(hidden, None, *extra)
    assert found.shape == (sum(num_tokens), 50) and not found.requires_grad
    torch.testing.assert_close(found.exp().sum(dim=1), torch.ones(len(found)))
    losses = HeadLoss(weight)(hidden, targets, *extra)
    torch.testing.assert_close(-found.gather(1, targets[:, None])[:, 0], losses)
