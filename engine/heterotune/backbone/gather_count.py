"""Counts what ZeRO-3 moves between ranks when it gathers the weights of a layer, as every pass over it does."""

from __future__ import annotations

import time
from typing import Any, Protocol

import deepspeed.comm.comm as deepspeed_comm
from torch import Tensor

GATHER = "zero3_gather"
ALL_REDUCE = "zero3_all_reduce"
"""How weights are gathered where the DeepSpeed JSON says `stage3_use_all_reduce_for_fetch_params`."""


class Count(Protocol):
    """Takes note of one collective operation, as `Traffic.add` does."""

    def __call__(self, verb: str, *, sent_bytes: int, received_bytes: int, seconds: float) -> None:
        """Count it."""
        ...


def count_gathers(count: Count) -> None:
    """Tell `count` of every gather of weights on this rank from now on, instead of whoever was told before.

    All of DeepSpeed's operations go through one object, so two of its methods are wrapped; a copy that one rank has to
    itself is never gathered and counts nothing. Seconds are those of the call and of waiting for its end (on a GPU
    the host does not wait: then they are those of the call).

    Args:
        count: Called on this rank's thread when an operation has ended.
    """
    backend: Any = deepspeed_comm.cdb
    for wrapped in ("all_gather_into_tensor", "all_reduce"):
        vars(backend).pop(wrapped, None)  # the class's own method shows again
    gather, all_reduce = backend.all_gather_into_tensor, backend.all_reduce

    def counted_gather(output_tensor: Tensor, input_tensor: Tensor, *args: Any, **options: Any) -> Any:
        sent_bytes = input_tensor.nbytes
        if output_tensor.nbytes == sent_bytes:  # this rank has the copy to itself
            return gather(output_tensor, input_tensor, *args, **options)
        operation = _Operation(count, GATHER, sent_bytes, output_tensor.nbytes - sent_bytes)
        return operation.ends_with(gather(output_tensor, input_tensor, *args, **options))

    def counted_all_reduce(tensor: Tensor, *args: Any, **options: Any) -> Any:
        operation = _Operation(count, ALL_REDUCE, tensor.nbytes, tensor.nbytes)
        return operation.ends_with(all_reduce(tensor, *args, **options))

    backend.all_gather_into_tensor, backend.all_reduce = counted_gather, counted_all_reduce


class _Operation:
    """One operation under way. Stands for the library's handle, and counts when somebody has waited for its end."""

    def __init__(self, count: Count, verb: str, sent_bytes: int, received_bytes: int) -> None:
        self._count, self._verb = count, verb
        self._sent_bytes, self._received_bytes = sent_bytes, received_bytes
        self._began = time.perf_counter()
        self._seconds = 0.0
        self._handle: Any = None

    def ends_with(self, handle: Any) -> Any:
        """Take the library's handle; returns what the caller gets in its place. None = it has ended already."""
        self._seconds = time.perf_counter() - self._began
        if handle is None:
            self._note()
            return None
        self._handle = handle
        return self

    def wait(self, *args: Any, **options: Any) -> Any:
        """Wait as the library does."""
        began = time.perf_counter()
        result = self._handle.wait(*args, **options)
        self._seconds += time.perf_counter() - began
        self._note()
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    def _note(self) -> None:
        """Count once, however often somebody waits."""
        if self._verb:
            self._count(
                self._verb,
                sent_bytes=self._sent_bytes,
                received_bytes=self._received_bytes,
                seconds=self._seconds,
            )
            self._verb = ""
