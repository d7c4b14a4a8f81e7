"""One federation under every placement, as plain replicas and ZeRO-3 copies, and with 4 and 40 clients a round.

python placements.py RUN.yaml EMPTY_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from heterotune.collective.opening import open_channel
from heterotune.config.load import load_run
from heterotune.preflight import check
from heterotune.profiling.timing import Stopwatch
from heterotune.run_folder import RunFolder
from heterotune.runner import run_strategies
from heterotune.worker import _join

SHARDED = "backbone.ds_config=zero3_cpu"
RUNS = (
    ("spread", ["placement=spread"]),
    ("dedicated", ["placement=dedicated"]),
    ("many", ["placement=auto", "cohort.clients=40", "rounds=1"]),
    ("sharded-spread", ["placement=spread", SHARDED]),
    ("sharded-dedicated", ["placement=dedicated", SHARDED, "rounds=1"]),
    ("sharded-dedicated", ["placement=dedicated", SHARDED]),  # goes on with round 2
)


def main() -> None:
    """Run all of them one after the other, each in a folder of its name."""
    torch.set_num_threads(1)
    channel = open_channel("mpi", watchdog_seconds=240.0)
    done = set()
    for name, overrides in RUNS:
        config = load_run(Path(sys.argv[1]), overrides, begun=True)  # one round of two aligns nothing anew
        _join(config, channel, 0)
        folder = RunFolder.open(Path(sys.argv[2])).subfolder(name)
        run_strategies(check(config), channel, torch.device("cpu"), folder, Stopwatch(), resume=name in done)
        done.add(name)
    channel.close()


if __name__ == "__main__":
    main()
