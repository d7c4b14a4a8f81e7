"""Counting DeepSpeed's collective operations; whole passes are counted in tests/multirank/test_gather_count.py."""

from __future__ import annotations

import deepspeed.comm.comm as deepspeed_comm
import pytest
import torch

from heterotune.backbone.gather_count import count_gathers


class Handle:
    """A handle of torch.distributed."""

    waited = 0

    def wait(self) -> bool:
        self.waited += 1
        return True

    def is_completed(self) -> bool:
        return self.waited > 0


class Backend:
    """DeepSpeed's object for collective operations."""

    def all_gather_into_tensor(self, output_tensor, input_tensor, group=None, async_op=False):
        return Handle() if async_op else None

    def all_reduce(self, tensor, op=None, group=None, async_op=False):
        return Handle() if async_op else None


@pytest.fixture
def counted(monkeypatch) -> list:
    """What is counted through a fake backend, in order."""
    monkeypatch.setattr(deepspeed_comm, "cdb", Backend())
    counted: list = []
    count_gathers(lambda verb, **numbers: pytest.fail("replaced by the next"))
    count_gathers(lambda verb, **numbers: counted.append((verb, numbers)))
    return counted


def test_a_gather_counts_when_it_has_ended(counted):
    handle = deepspeed_comm.cdb.all_gather_into_tensor(
        output_tensor=torch.zeros(12), input_tensor=torch.zeros(4), group=None, async_op=True
    )
    assert not counted and not handle.is_completed()
    assert handle.wait() and handle.wait() and handle.is_completed()
    ((verb, numbers),) = counted
    assert (verb, numbers["sent_bytes"], numbers["received_bytes"]) == ("zero3_gather", 16, 32)
    assert numbers["seconds"] > 0


def test_an_operation_without_a_handle_counts_at_once(counted):
    assert deepspeed_comm.cdb.all_gather_into_tensor(torch.zeros(4), torch.zeros(2)) is None
    assert deepspeed_comm.cdb.all_reduce(torch.zeros(3, dtype=torch.float64)) is None
    assert [(verb, numbers["received_bytes"]) for verb, numbers in counted] == [
        ("zero3_gather", 8),
        ("zero3_all_reduce", 24),
    ]
