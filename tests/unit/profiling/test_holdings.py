"""Objects count once and as long as they live; nothing keeps them alive."""

from __future__ import annotations

import numpy as np
import torch

from heterotune.profiling.holdings import Holdings, added


class Owner:
    """Anything that weak references can point to."""


def test_tensors_count_by_storage_and_leave_when_they_die() -> None:
    holdings = Holdings()
    values = torch.zeros(10, 10)
    holdings.follow("adapters", values)
    holdings.follow("adapters", values[0])
    holdings.follow("data", np.zeros(8, dtype=np.int64))
    assert holdings.bytes_on("cpu") == {"adapters": 400, "data": 0}  # the array died at once
    view = values.view(-1)
    del values
    assert holdings.bytes_on("cpu")["adapters"] == 400  # the storage lives in a view
    del view
    assert holdings.bytes_on("cpu")["adapters"] == 0


def test_other_owners_say_their_size_and_sources_are_asked_at_each_look() -> None:
    holdings, owner, sizes = Holdings(), Owner(), [1]
    holdings.follow("buffers", owner, 7)
    holdings.ask("buffers", lambda: sum(sizes))
    holdings.ask("buffers", lambda: 1000, "cuda")
    assert holdings.bytes_on("cpu") == {"buffers": 8}
    sizes.append(2)
    del owner
    assert holdings.bytes_on("cpu") == {"buffers": 3}
    assert holdings.bytes_on("cuda") == {"buffers": 1000}


def test_components_add_up() -> None:
    assert added({"data": 1, "logits": 2}, {}, {"data": 3}) == {"data": 4, "logits": 2}
