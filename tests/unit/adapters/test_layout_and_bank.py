from __future__ import annotations

import numpy as np
import torch

from heterotune.adapters.attach import AttachedAdapter
from heterotune.adapters.bank import Bank, stack_clients
from heterotune.adapters.layout import AdapterLayout, Branch, TensorSpec, initial_value

LAYOUT = AdapterLayout(
    "tiny",
    (
        TensorSpec("w.V", (2, 5), "type", "type/tiny/w.V", "b", "0", init="kaiming"),
        TensorSpec("w.U", (4, 2), "type", "type/tiny/w.U", "b", "0"),
        TensorSpec("own", (3,), "client", "", "a", "0", init="kaiming"),
        TensorSpec("gate", (1,), "fleet", "fleet/gate", "c", "head", init="ones"),
    ),
    (Branch("w", up="w.U", down="w.V", scale=2.0),),
)
CPU = torch.device("cpu")


def test_columns_go_by_group_and_name_and_leave_no_gap():
    assert [spec.name for spec in LAYOUT.tensors] == ["own", "w.U", "w.V", "gate"]
    assert LAYOUT.columns["own"] == slice(0, 3) and LAYOUT.columns["gate"] == slice(21, 22)
    assert LAYOUT.num_columns == 22
    assert LAYOUT.group_columns == {"b": slice(3, 21), "c": slice(21, 22)}
    assert LAYOUT.travelling_columns == {"w.U": slice(0, 8), "w.V": slice(8, 18), "gate": slice(18, 19)}


def test_first_values_depend_on_seed_owner_and_name():
    spec = LAYOUT.tensors[2]
    draw = {
        key: initial_value(spec, run_seed=key[0], client_id=key[1], name=key[2])
        for key in [(0, -1, "x"), (1, -1, "x"), (0, 3, "x"), (0, -1, "y")]
    }
    assert len({value.tobytes() for value in draw.values()}) == 4
    assert all(np.abs(value).max() <= 1 / np.sqrt(5) and value.dtype == np.float32 for value in draw.values())
    assert np.array_equal(initial_value(spec, run_seed=0, client_id=-1, name="x"), draw[0, -1, "x"])


def test_views_share_storage_with_the_flat_matrices():
    bank = Bank(LAYOUT, torch.arange(44.0).view(2, 22))
    assert torch.equal(bank["w.V"][1].flatten(), bank.values_KP[1, LAYOUT.columns["w.V"]])
    (bank["w.U"].sum() + 3 * bank["gate"].sum()).backward()
    assert bank.grads_KP[:, LAYOUT.columns["w.U"]].eq(1).all() and bank.grads_KP[:, 21].eq(3).all()
    assert bank.grads_KP[:, :3].eq(0).all()
    bank.zero_grad()
    (2 * bank["gate"].sum()).backward()
    assert bank.grads_KP.sum() == 4
    bank.values_KP += 1
    assert bank["gate"][0, 0] == 22.0


def test_clients_get_common_values_and_keep_their_own():
    shared = {"type/tiny/w.V": torch.ones(2, 5), "type/tiny/w.U": torch.full((4, 2), 2.0), "fleet/gate": torch.ones(1)}
    bank = stack_clients(LAYOUT, shared, [{"own": torch.zeros(3)}, {"own": torch.ones(3)}], device=CPU, head_frame=None)
    assert bank.num_clients == 2
    assert torch.equal(bank["w.U"][0], bank["w.U"][1])
    assert bank["own"].sum(dim=1).tolist() == [0.0, 3.0]


def test_each_row_goes_through_its_own_clients_branch():
    host = torch.nn.Module()
    host.w = torch.nn.Linear(5, 4, bias=False)
    attached = AttachedAdapter(LAYOUT, host)
    values = torch.randn(3, 22, generator=torch.Generator().manual_seed(1))
    bank = Bank(LAYOUT, values)
    x = torch.randn(6, 7, 5, generator=torch.Generator().manual_seed(2))  # 3 clients, 2 rows each
    with attached.use(bank):
        y = host.w(x)
    for row in range(6):
        client = row // 2
        expected = x[row] @ host.w.weight.T + 2.0 * x[row] @ bank["w.V"][client].T @ bank["w.U"][client].T
        torch.testing.assert_close(y[row], expected)
    plain = x @ host.w.weight.T
    torch.testing.assert_close(host.w(x), plain)
    attached.detach()
    torch.testing.assert_close(host.w(x), plain)
    assert "forward" not in vars(host.w)
