"""Measure a calibration for `heterotune plan --calibration FILE` on a machine without GPUs.

    python tools/benchmarks/plan_calibrate.py FILE               # about 2 minutes

A tiny run gives the memory of a bare rank, alone, under MPI and with DeepSpeed; runs of one middle-sized shape give the
speed of a rank and what the heap adds; none of them is a shape of plan.py. The network is not measured: give
--link-gbps.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(REPOSITORY / "engine")]

from plan import heap, measure  # noqa: E402
from plan_shapes import CALIBRATION, MIDDLE, Shape  # noqa: E402

from heterotune.config.load import parse_run  # noqa: E402
from heterotune.fleet.model_types import read_model_types  # noqa: E402
from heterotune.planning.calibration import CPU_CORE, Calibration, save_calibration  # noqa: E402
from heterotune.planning.cluster import Cluster  # noqa: E402
from heterotune.planning.compute import pass_flops  # noqa: E402
from heterotune.planning.memory_model import rank_memory  # noqa: E402
from heterotune.planning.setting import Setting  # noqa: E402

COPY_BYTES = 1 << 28


def main() -> int:
    """Measure, write and print. Returns the process's exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, help="the calibration to write")
    parser.add_argument("--link-gbps", type=float, default=CPU_CORE.link_gbps, help="network of a node")
    options = parser.parse_args()
    calibration = calibrated(options.link_gbps)
    save_calibration(calibration, options.file)
    print(*(f"{name}: {value}" for name, value in asdict(calibration).items()), sep="\n")
    return 0


def calibrated(link_gbps: float) -> Calibration:
    """Return what this machine measures."""
    heap("returning")
    alone = bare_bytes(CALIBRATION)
    under_mpi = bare_bytes(replace(CALIBRATION, num_ranks=2))
    with_deepspeed = bare_bytes(replace(CALIBRATION, ds_config="zero3_cpu"))
    factors = {}
    for kind in ("returning", "default"):
        heap(kind)
        peak_bytes, seconds = measure(MIDDLE)
        live_bytes = grown_bytes(setting_of(MIDDLE, 2.0)) - grown_bytes(setting_of(MIDDLE, 1.0))
        rest_bytes = grown_bytes(setting_of(MIDDLE, 1.0)) - live_bytes - CPU_CORE.runtime_bytes + alone
        factors[kind] = max(1.0, (peak_bytes[0] - rest_bytes) / live_bytes)
    setting = setting_of(MIDDLE, 1.0)
    return Calibration(
        name="one CPU core, measured here; network as given",
        flops=setting.steps * pass_flops(setting.shapes[0], MIDDLE.clients, setting) / seconds,
        stream_bytes_per_second=copy_bytes_per_second(),
        gather_bytes_per_second=CPU_CORE.gather_bytes_per_second,
        nvme_bytes_per_second=CPU_CORE.nvme_bytes_per_second,
        link_gbps=link_gbps,
        runtime_bytes=alone,
        mpi_bytes=max(1, under_mpi - alone),
        deepspeed_bytes=max(1, with_deepspeed - alone),
        heap_factor=factors["default"],
        returning_heap_factor=factors["returning"],
        measured=True,
    )


def bare_bytes(shape: Shape) -> int:
    """Return the resident peak of a tiny run without what the plan knows of it."""
    setting = setting_of(shape, CPU_CORE.returning_heap_factor)
    train = rank_memory(setting, setting.chunks_by_rank({0: shape.clients})[0])["train"]
    known = train.total_bytes("host") - train.by_place["host"]["runtime"]
    return max(measure(shape)[0]) - known


def grown_bytes(setting: Setting) -> int:
    """Return the plan's host peak of the train phase."""
    mine = setting.chunks_by_rank({0: MIDDLE.clients})[0]
    return rank_memory(setting, mine)["train"].total_bytes("host")


def setting_of(shape: Shape, heap_factor: float) -> Setting:
    """Return a shape as a plan sees it, with a given heap."""
    config = parse_run(shape.run())
    chosen = replace(CPU_CORE, returning_heap_factor=heap_factor)
    cluster = Cluster(ranks_per_node=shape.num_ranks)
    return Setting(config, read_model_types(config.fleet), cluster, chosen, returns_memory=True)


def copy_bytes_per_second() -> float:
    """Return how fast one core copies memory."""
    source, target = np.ones(COPY_BYTES, np.uint8), np.empty(COPY_BYTES, np.uint8)
    np.copyto(target, source)
    started = time.perf_counter()
    np.copyto(target, source)
    return COPY_BYTES / (time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
