"""The rounds on which strong and weak scaling is measured, and those that the performance model is fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from plan_shapes import llama

from heterotune.config.load import parse_run
from heterotune.fleet.model_types import read_model_types
from heterotune.planning.calibration import Calibration
from heterotune.planning.cluster import Cluster
from heterotune.planning.setting import Setting

NARROW, WIDE = llama(128, 4, 2048), llama(256, 6, 2048)


@dataclass(frozen=True)
class Point:
    """One kind of round.

    Attributes:
        name: In the table.
        models: Fields of a `random:` model for each model type.
        cohort: Clients of a round.
        chunk: Clients of a chunk.
        adapter_rank: Of every adapter.
        topology: Where updates are combined.
        fitted_on: Numbers of ranks whose measurements the model is fitted to; it is tested on the others.
    """

    name: str
    models: tuple[dict[str, int], ...]
    cohort: int
    chunk: int
    adapter_rank: int = 8
    topology: str = "root"
    fitted_on: tuple[int, ...] = ()

    def run(self) -> dict[str, Any]:
        """Return the run file's values."""
        specs = ["random:" + ",".join(f"{key}={value}" for key, value in model.items()) for model in self.models]
        return {
            "name": self.name.replace(", ", "-").replace(" ", "-"),
            "seed": 11,
            "rounds": 1000,
            "fleet": [{"name": f"m{n}", "model": spec, "clients": 16} for n, spec in enumerate(specs)],
            "data": {"source": "embedded:stdlib", "max_tokens": 64, "max_rows_per_client": 16},
            "cohort": {"clients": self.cohort},
            "local": {"steps": 4, "batch_size": 2},
            "strategy": "fedavg_lora",
            "fedavg_lora": {"adapter_rank": self.adapter_rank},
            "backbone": {"ds_config": "none"},
            "chunk": {"clients": self.chunk},
            "collective": {"topology": self.topology},
            "checkpoint": {"every_rounds": 0, "progress_seconds": "never"},
            "evaluate": {"every_rounds": 1000, "max_rows": 8, "batch_size": 4},
            "tensorboard": False,
        }

    def setting(self, num_ranks: int, calibration: Calibration) -> Setting:
        """Return the point as a plan sees it, on one node."""
        config = parse_run(self.run())
        return Setting(config, read_model_types(config.fleet), Cluster(ranks_per_node=num_ranks), calibration)


POINTS = (
    Point("narrow", (NARROW,), cohort=8, chunk=2, fitted_on=(1,)),
    Point("narrow, half", (NARROW,), cohort=4, chunk=2, fitted_on=(1,)),
    Point("narrow, large chunks", (NARROW,), cohort=16, chunk=8, fitted_on=(1,)),
    Point("narrow, one by one", (NARROW,), cohort=8, chunk=1, fitted_on=(1,)),
    Point("wide", (WIDE,), cohort=4, chunk=1, fitted_on=(1,)),
    Point("wide, twice", (WIDE,), cohort=8, chunk=2, fitted_on=(1,)),
    Point("wide, large adapters", (WIDE,), cohort=4, chunk=2, adapter_rank=64, fitted_on=(1,)),
    Point("wide, large adapters, sharded", (WIDE,), cohort=4, chunk=2, adapter_rank=64, topology="sharded"),
    Point("both", (NARROW, WIDE), cohort=8, chunk=2),
)
STRONG = "narrow"
WEAK = ("narrow, half", "narrow")
"""The same round on 1 and 2 ranks; half the clients on 1 rank beside all on 2."""
