"""Memory of one rank by round and phase: peaks, and what they consist of."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

from torch import nn

from heterotune.profiling.components import ALLOCATOR, RUNTIME
from heterotune.profiling.holdings import HOST, Holdings, added
from heterotune.profiling.kinds import DEVICE_ALLOCATED, HOST_RESIDENT, NVME
from heterotune.profiling.memory import ResidentPeak, device_peaks, reset_device_peaks
from heterotune.profiling.process_memory import ProcessMemory, read_process_memory
from heterotune.profiling.tensor_tracker import TensorTracker, Tracked

Batch = TypeVar("Batch")

Held = dict[str, dict[str, int]]
"""Kind of device -> component -> bytes."""

_DEVICE_OF = {HOST_RESIDENT: HOST, DEVICE_ALLOCATED: "cuda"}
"""Kinds whose components are known, with torch's name for where they are."""


class MemoryRecorder:
    """Peaks of one rank by round and phase, each with what it consists of. Phases do not nest.

    A phase's components are what was held when it began and what was made in it until the tensors were most. The
    latter is tracked the first time that a phase runs with work of a shape, and remembered for later rounds.
    """

    def __init__(self, mpi_rank: int, runtime: ProcessMemory | None = None) -> None:
        """Begin with no phase.

        Args:
            mpi_rank: Whose memory this is.
            runtime: The process before it loaded a model; None = now.
        """
        self.holdings = Holdings()
        self.modules: dict[nn.Module, str] = {}
        self.nvme_bytes: Callable[[], int] = lambda: 0
        self._mpi_rank = mpi_rank
        self._runtime = runtime or read_process_memory()
        self._mapped: Callable[[], int] = lambda: 0
        self._resident = ResidentPeak()
        self._records: dict[tuple[int, str, str], dict[str, Any]] = {}
        self._tracked: dict[Hashable, Tracked] = {}
        self._tracker: TensorTracker | None = None
        self._current: str | None = None

    def phase(
        self, name: str, round_number: int = 0, *, making: str | None = None, shape: Hashable = None
    ) -> AbstractContextManager[None]:
        """Measure what runs inside; of a phase that runs several times in a round the highest peak is kept.

        Args:
            name: The phase.
            round_number: 0 = before the first.
            making: The component of the tensors that it makes outside of models; None tracks no tensors.
            shape: Tells kinds of work apart that need different memory; each is tracked once.
        """
        return self._measure(name, round_number, making, shape)

    def maps_backbones(self, mapped: Callable[[], int]) -> None:
        """Say how much of the process's file pages are weights, which are counted as such."""
        self._mapped = mapped

    def now_making(self, component: str) -> None:
        """Say where tensors belong that are made from here on in the present phase."""
        if self._tracker is not None:
            self._tracker.making = component

    def first_pass(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield batches; tracking ends when the second one is asked for, since the passes after it are alike."""
        for number, batch in enumerate(batches):
            if number == 1 and self._tracker is not None:
                self._tracker.stop()
            yield batch

    @contextmanager
    def _measure(self, name: str, round_number: int, making: str | None, shape: Hashable) -> Iterator[None]:
        assert self._current is None, f"phase {name} inside phase {self._current}"
        self._current = name
        held = self._begin(making, (name, shape))
        try:
            with self._tracker or nullcontext():
                yield
        finally:
            self._current = None
            self._end(name, round_number, (name, shape), held)

    def _begin(self, making: str | None, work: Hashable) -> Held | None:
        """Start to measure; returns what is held by now, None where no tensors are tracked."""
        held = None if making is None else self._held()
        if making is not None and work not in self._tracked:
            self._tracker = TensorTracker(making, self.modules)
        self._resident.start()
        reset_device_peaks()
        return held

    def _end(self, name: str, round_number: int, work: Hashable, held: Held | None) -> None:
        """Take the peaks, and say of what they consist."""
        peaks = {HOST_RESIDENT: self._resident.stop(), **device_peaks()}
        if self._tracker is not None:
            self._tracked[work] = self._tracker.result()
            self._tracker = None
        # Without tracked tensors all that can be told is what is held after the phase.
        self._keep(round_number, name, peaks, held or self._held(), self._tracked.get(work, Tracked()))

    def _keep(self, round_number: int, phase: str, peaks: dict[str, int], held: Held, made: Tracked) -> None:
        """Keep what is higher than in earlier runs of the phase in this round."""
        if nvme_bytes := self.nvme_bytes():
            peaks[NVME] = nvme_bytes
        for kind, peak in peaks.items():
            known = self._records.get((round_number, phase, kind))
            if known is not None and known["peak_bytes"] >= peak:
                continue
            record = {"round": round_number, "mpi_rank": self._mpi_rank, "phase": phase, "kind": kind}
            self._records[round_number, phase, kind] = (
                record | {"peak_bytes": peak} | _known(self._components(kind, peak, held, made))
            )

    def drain(self) -> list[dict[str, Any]]:
        """Return a line for each round, phase and kind since the last call, and begin anew.

        A line is {"round", "mpi_rank", "phase", "kind", "peak_bytes"}, and "components" where they are known.
        """
        records, self._records = self._records, {}
        return list(records.values())

    def _held(self) -> Held:
        """Return the bytes of all that is held now, by kind of device."""
        return {device: self.holdings.bytes_on(device) for device in _DEVICE_OF.values()}

    def _components(self, kind: str, peak: int, held: Held, made: Tracked) -> dict[str, int]:
        """Return what a peak consists of; nothing for a kind of which no object is known."""
        if kind not in _DEVICE_OF:
            return {}
        device = _DEVICE_OF[kind]
        of_the_process = self._of_the_process(peak, made.freed_bytes) if kind == HOST_RESIDENT else {}
        return added(of_the_process, held[device], made.at_peak.get(device, {}))

    def _of_the_process(self, peak: int, freed_bytes: int) -> dict[str, int]:
        """Return what belongs to no object: the runtime, and memory that was free at the peak but not given back.

        What is free after the phase, and what was given back to the system since the peak, was either in tensors that
        are gone now or free at the peak, too.
        """
        now, before = read_process_memory(), self._runtime
        paged_in = now.file_bytes - before.file_bytes - self._mapped()
        free_since = now.free_heap_bytes - before.free_heap_bytes + max(0, peak - now.resident_bytes)
        return {
            RUNTIME: before.resident_bytes + max(0, paged_in),
            ALLOCATOR: max(0, free_since - freed_bytes),
        }


def _known(components: dict[str, int]) -> dict[str, Any]:
    found = {component: num_bytes for component, num_bytes in components.items() if num_bytes}
    return {"components": found} if found else {}
