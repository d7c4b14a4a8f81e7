"""HETLoRA's local part: the regulariser of the last components, for all clients at once, and pruning."""

from __future__ import annotations

import pytest
import torch

from heterotune.adapters.bank import Bank
from heterotune.adapters.layout import AdapterLayout, Branch, TensorSpec
from heterotune.config.product_options import HetloraOptions
from heterotune.strategies.hetlora import local_rule, prune


def spec(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, shape, "width", name, "lora", "0")


LAYOUT = AdapterLayout(
    "a",
    (spec("q.U", 5, 4), spec("q.V", 4, 3), spec("v.U", 2, 4), spec("v.V", 4, 3)),
    (Branch("q", "q.U", "q.V", 1.0), Branch("v", "v.U", "v.V", 1.0)),
)
OPTIONS = HetloraOptions(regulariser=0.3, kept_share=0.6)  # the last 2 of 4 components


def random_bank(num_clients: int = 3) -> Bank:
    values_KP = torch.randn(num_clients, LAYOUT.num_columns, generator=torch.Generator().manual_seed(1))
    return Bank(LAYOUT, values_KP, start_KP=values_KP.clone())


def penalty_of_one(values: dict[str, torch.Tensor]) -> torch.Tensor:
    return 0.3 * sum(values[f"{site}.V"][2:].norm() * values[f"{site}.U"][:, 2:].norm() for site in "qv")


def test_each_client_is_regularised_alone_with_a_gradient():
    bank = random_bank()
    found_K = local_rule(LAYOUT, 1, options=OPTIONS).loss_term(bank, bank.start_KP)
    found_K.sum().backward()
    for k in range(3):
        values = {each.name: bank[each.name][k].detach().clone().requires_grad_() for each in LAYOUT.tensors}
        wanted = penalty_of_one(values)
        wanted.backward()
        torch.testing.assert_close(found_K[k], wanted)
        for name, value in values.items():
            torch.testing.assert_close(bank[name].grad[k], value.grad)
            assert value.grad.any()


def test_a_fresh_lora_has_a_finite_gradient():
    bank = Bank(LAYOUT, torch.zeros(2, LAYOUT.num_columns))
    local_rule(LAYOUT, 1, options=OPTIONS).loss_term(bank, bank.start_KP).sum().backward()
    assert (bank.grads_KP == 0).all()


@pytest.mark.parametrize("kept_share", [0.5, 0.74])
def test_who_got_smaller_is_pruned(kept_share):
    bank = random_bank(2)
    factor_K1 = torch.tensor([[0.9], [1.1]])
    bank.values_KP.mul_(factor_K1)
    grown = bank.values_KP[1].clone()
    prune(bank, kept_share)
    assert torch.equal(bank.values_KP[1], grown)
    for branch in LAYOUT.branches:
        up, down = bank[branch.up][0], bank[branch.down][0]
        assert (up[:, 2:] == 0).all() and (down[2:] == 0).all() and (up[:, :2] != 0).all() and (down[:2] != 0).all()


def test_options_say_what_a_client_does():
    plain = local_rule(LAYOUT, 1, options=HetloraOptions(regulariser=0.0))
    assert plain.loss_term is None and plain.finish is None
    rule = local_rule(LAYOUT, 1, options=HetloraOptions(prune=True, kept_share=0.5))
    bank = random_bank(2)
    bank.values_KP.mul_(0.5)
    rule.finish(bank, torch.ones(2, 1))
    assert (bank["q.V"][:, 2:] == 0).all()
