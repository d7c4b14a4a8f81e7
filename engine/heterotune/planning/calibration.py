"""Figures of a machine that no arithmetic gives: speeds of a rank and of the network, memory of a bare process.

A calibration file is a small JSON with these keys; `python tools/benchmarks/plan_calibrate.py FILE` measures one on a
machine without GPUs. Without a file the shipped figures are used, and the plan says which.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from heterotune.errors import ConfigError

MIB, GIB = 1 << 20, 1 << 30
FIXED_THRESHOLD_VARIABLE = "MALLOC_MMAP_THRESHOLD_"
"""Set in a job's environment (to 1048576), it makes glibc give large tensors back to the system as they are freed."""


@dataclass(frozen=True)
class Calibration:
    """A machine.

    Attributes:
        name: What it is and where the figures come from.
        flops: FLOP/s that one rank reaches in a training pass.
        stream_bytes_per_second: From offloaded weights to where a rank computes: host memory, or PCIe to a GPU.
        gather_bytes_per_second: Between the ranks of one node.
        nvme_bytes_per_second: From a node's local disk.
        link_gbps: Network of a node in each direction, Gbit/s.
        runtime_bytes: Resident size of a rank before it loads a model: Python, torch, the embedded corpus.
        mpi_bytes: What more than one rank adds to it.
        deepspeed_bytes: What DeepSpeed adds to it.
        heap_factor: Resident over live bytes of what training makes and frees, where glibc keeps freed memory.
        returning_heap_factor: The same where `MALLOC_MMAP_THRESHOLD_` is fixed.
        layer_seconds: What a layer takes in a training pass, however little there is to compute.
        chunk_seconds: What a chunk takes beside its passes: drawing rows, stacking adapters, notes.
        update_seconds: Of one element of a client's update, from the trained value to the exact sum.
        combine_seconds: Of one value of all clients' mean, from the sum to the new value.
        take_seconds: Of one new value on a rank that takes it over.
        pack_seconds: Of one value that is put into the order of slices.
        message_seconds: Of a message between two ranks, however short.
        round_seconds: What a round takes beside all that: drawing a cohort, records.
        device_reserved_factor: torch's reserved over allocated GPU memory.
        device_runtime_bytes: Of a GPU, outside torch's allocator: context and libraries' workspaces.
        measured: False where a figure is an assumption.
    """

    name: str
    flops: float
    stream_bytes_per_second: float
    gather_bytes_per_second: float
    nvme_bytes_per_second: float
    link_gbps: float
    runtime_bytes: int
    mpi_bytes: int
    deepspeed_bytes: int
    heap_factor: float
    returning_heap_factor: float
    layer_seconds: float = 5e-4
    chunk_seconds: float = 5e-3
    update_seconds: float = 1e-8
    combine_seconds: float = 1e-8
    take_seconds: float = 2e-9
    pack_seconds: float = 2e-9
    message_seconds: float = 1e-5
    round_seconds: float = 5e-3
    device_reserved_factor: float = 1.15
    device_runtime_bytes: int = GIB
    measured: bool = False


CPU_CORE = Calibration(
    name="one CPU core, fp32 (operations and memory measured on 2 cores of x86-64, docs/planning.md; the rest assumed)",
    flops=1e11,
    stream_bytes_per_second=12e9,
    gather_bytes_per_second=1e9,
    nvme_bytes_per_second=2e9,
    link_gbps=100.0,
    runtime_bytes=418 * MIB,
    mpi_bytes=20 * MIB,
    deepspeed_bytes=36 * MIB,
    heap_factor=2.2,
    returning_heap_factor=1.04,
    measured=True,
)
_GPU_HOST = {"runtime_bytes": 3 * GIB, "mpi_bytes": 64 * MIB, "deepspeed_bytes": 256 * MIB}
_GPU_HEAP = {"heap_factor": 2.2, "returning_heap_factor": 1.04}
A100 = Calibration(
    name="A100 80GB, bf16: 40 % of the published dense peak, 312 TFLOP/s; PCIe 4.0, NVLink (assumed, not measured)",
    flops=0.4 * 312e12,
    stream_bytes_per_second=20e9,
    gather_bytes_per_second=100e9,
    nvme_bytes_per_second=5e9,
    link_gbps=200.0,
    **_GPU_HOST,
    **_GPU_HEAP,
)
H100 = Calibration(
    name="H100 SXM, bf16: 40 % of the published dense peak, 989 TFLOP/s; PCIe 5.0, NVLink (assumed, not measured)",
    flops=0.4 * 989e12,
    stream_bytes_per_second=40e9,
    gather_bytes_per_second=150e9,
    nvme_bytes_per_second=5e9,
    link_gbps=400.0,
    **_GPU_HOST,
    **_GPU_HEAP,
)
SHIPPED = {"cpu": CPU_CORE, "a100": A100, "h100": H100}


def load_calibration(name_or_path: str | None, *, has_gpus: bool) -> Calibration:
    """Return a shipped calibration by name, or that of a file; None = the CPU's, or an A100's where there are GPUs.

    Raises:
        ConfigError: If the file is missing, unreadable, or has keys or values that make no sense; with all of them.
    """
    if name_or_path is None:
        return A100 if has_gpus else CPU_CORE
    if name_or_path in SHIPPED:
        return SHIPPED[name_or_path]
    try:
        values = json.loads(Path(name_or_path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        names = ", ".join(SHIPPED)
        raise ConfigError(
            [f"--calibration = {name_or_path} cannot be read ({error}). Give a file or {names}."]
        ) from None
    if problems := _problems(values):
        raise ConfigError([f"{name_or_path}: {problem}" for problem in problems])
    return Calibration(**values)


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration file that `load_calibration` reads back equal."""
    path.write_text(json.dumps(asdict(calibration), indent=2) + "\n", encoding="utf-8")


def returns_memory() -> bool:
    """Return whether this environment, which jobs inherit, fixes glibc's threshold."""
    return FIXED_THRESHOLD_VARIABLE in os.environ


def _problems(values: Any) -> list[str]:
    if not isinstance(values, dict):
        return ["not a JSON object. Make one with `python tools/benchmarks/plan_calibrate.py FILE`."]
    known = {field.name: field.type for field in fields(Calibration)}
    problems = [f"{key} is not a key of a calibration. Remove it." for key in values if key not in known]
    required = [field.name for field in fields(Calibration) if field.default is MISSING]
    problems += [f"{name} is missing. Add it." for name in required if name not in values]
    return problems + [
        f"{name} = {value!r} is not a number above 0. Correct it."
        for name, value in values.items()
        if name in known and name not in ("name", "measured") and not _is_positive(value)
    ]


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
