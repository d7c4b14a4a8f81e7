"""The plan of a run: what it needs and sends, whether it fits, and what would make it fit."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from heterotune.config.schema import RunConfig
from heterotune.errors import ConfigError
from heterotune.fleet.devices import make_devices
from heterotune.fleet.model_types import ModelType, read_model_types
from heterotune.planning.calibration import Calibration, returns_memory
from heterotune.planning.client_bytes import FederationBytes, federation_bytes
from heterotune.planning.cluster import Cluster
from heterotune.planning.collecting import VALUE_BYTES, crossover_values
from heterotune.planning.device_memory import DeviceFit, device_fits, device_problems
from heterotune.planning.fitting import Layout, because, lay_out, ways_out
from heterotune.planning.known_models import describe
from heterotune.planning.memory_model import rank_memory
from heterotune.planning.placement_choice import resolved
from heterotune.planning.setting import ASSUMED_ROWS, Setting
from heterotune.planning.time_model import (
    RoundTime,
    Traffic,
    bytes_per_second,
    collect_by_topology,
    mean_time,
    round_time,
    traffic,
)

JSON_VERSION = 1
PLANNED_STRATEGIES = (
    "heterotune",
    "fedavg_lora",
    "local_only",
    "fedprox",
    "scaffold",
    "fedavgm",
    "fedadagrad",
    "fedadam",
    "fedyogi",
    "ffa_lora",
    "flexlora",
    "hetlora",
    "heterofl",
    "fedrolex",
    "inclusivefl",
)
_CATCHING_UP = "what a client downloads depends on the rounds since it last took part"
NOT_PLANNED = {
    "fedavg_full": "what training a whole model needs is not modelled",
    "centralised": "its one client of each model type makes other chunks and steps than a cohort",
    "fedex_lora": _CATCHING_UP,
    "flora": _CATCHING_UP,
    "depthfl": "answers before the last layer are not modelled",
    "fedproto": "its prototypes are as many as the data's classes, and a plan reads no data",
}
"""Method -> why there is no plan for it; every method is in one of the two."""
_TIMED_ROUNDS = 64  # of a buffered clock: enough for a mean
KIND_OF_PLACE = {"host": "host_resident", "pinned": "host_pinned", "nvme": "nvme", "gpu": "device_allocated"}


@dataclass(frozen=True)
class Plan:
    """What is known of a run before it starts.

    Attributes:
        setting: The run and the machines.
        layout: Chunk sizes and memory.
        bytes: What clients send and get.
        traffic: What the simulator moves in round 1.
        first_time: Seconds of round 1.
        time: Seconds of a later round; their mean, where they differ.
        ways_out: Changes with which it fits; empty if it fits as it is.
        devices: How clients' own devices fit, where the run has some.
    """

    setting: Setting
    layout: Layout
    bytes: FederationBytes
    traffic: Traffic
    first_time: RoundTime
    time: RoundTime
    ways_out: tuple[str, ...]
    devices: tuple[DeviceFit, ...] = ()

    @property
    def crossover_bytes(self) -> float:
        """Bytes of adapters (fp32) from which on the sharded topology is quicker on these ranks; may be infinite."""
        setting = self.setting
        speed = bytes_per_second(setting)
        return VALUE_BYTES * crossover_values(setting.cluster.num_ranks, setting.calibration, speed)

    @property
    def run_seconds(self) -> float:
        """Seconds of all rounds."""
        return self.first_time.seconds + (self.setting.config.rounds - 1) * self.time.seconds

    @property
    def verdict(self) -> str:
        """Whether it fits, why not, and what to try."""
        if self.layout.fits:
            unknown = [need.where for need in self.layout.needs if need.limit_bytes is None]
            return "fits" + (
                f", as far as is known: how large {' and '.join(unknown)} is was not given" * bool(unknown)
            )
        tried = f"try {'; or '.join(self.ways_out)}" if self.ways_out else "nothing that the plan tried makes it fit"
        return f"does not fit, because {because(self.layout)}; {tried}"


def setting_of(config: RunConfig, cluster: Cluster, calibration: Calibration) -> Setting:
    """Read the models' configurations, nothing else.

    Raises:
        ConfigError: If the plan knows too little of the strategy, or a client's device is too small for its model type.
        ModelError: If one is missing here or is no LLaMA; all problems in one message.
    """
    if config.strategy not in PLANNED_STRATEGIES:
        told = f"strategy = {config.strategy} cannot be planned: {NOT_PLANNED[config.strategy]}"
        raise ConfigError([f"{told}. Plan {' or '.join(PLANNED_STRATEGIES[:2])}, or measure a round of it."])
    model_types = read_model_types(config.fleet, describe)
    if problems := device_problems(_device_fits(config, model_types)):
        raise ConfigError(problems)
    return resolved(Setting(config, model_types, cluster, calibration, returns_memory()))


def _device_fits(config: RunConfig, model_types: tuple[ModelType, ...]) -> list[DeviceFit]:
    """Return how clients' devices fit; nothing where the run has none."""
    devices = make_devices(config, model_types)
    return [] if devices is None else device_fits(config, model_types, devices)


def make_plan(setting: Setting) -> Plan:
    """Plan a run."""
    layout = lay_out(setting)
    first_time = round_time(setting, layout.by_rank)
    return Plan(
        setting=setting,
        layout=layout,
        bytes=federation_bytes(setting),
        traffic=traffic(setting, layout.by_rank),
        first_time=first_time,
        time=_later_time(setting, layout) or first_time,
        ways_out=() if layout.fits else tuple(ways_out(setting)),
        devices=tuple(_device_fits(setting.config, setting.model_types)),
    )


def _later_time(setting: Setting, layout: Layout) -> RoundTime | None:
    """Return the mean of some rounds after the first where these send out other clients; None = all are like it."""
    last = min(setting.config.rounds, 1 + _TIMED_ROUNDS)
    if setting.config.clock.buffer is None or last == 1:
        return None
    chunks = (setting.chunks_by_rank(layout.chunk_clients, round_number=number) for number in range(2, last + 1))
    return mean_time([round_time(setting, by_rank) for by_rank in chunks])


def estimate_memory(
    setting: Setting, chunk_clients: dict[int, int], *, mpi_rank: int = 0
) -> dict[tuple[str, str], int]:
    """Return (phase, kind) -> the plan's estimate in bytes for one rank, to be written beside what it measures.

    Args:
        setting: The run, with `strategy` the method at work, on its machines.
        chunk_clients: Place of a model type -> clients per chunk.
        mpi_rank: Whose memory.
    """
    mine = setting.chunks_by_rank(chunk_clients)[mpi_rank]
    estimates = {}
    for phase, memory in rank_memory(setting, mine, mpi_rank=mpi_rank).items():
        for place, kind in KIND_OF_PLACE.items():
            if num_bytes := memory.total_bytes(place):
                estimates[phase, kind] = num_bytes
                if place == "gpu":
                    factor = setting.calibration.device_reserved_factor
                    estimates[phase, "device_reserved"] = round(num_bytes * factor)
    return estimates


def assumptions(plan: Plan) -> list[str]:
    """Return what a plan takes for granted, in sentences."""
    setting = plan.setting
    data = setting.config.data
    limits = {
        "data.partition.rows_per_client": data.partition.rows_per_client,
        "data.max_rows_per_client": data.max_rows_per_client,
    }
    rows = next((f"{count} ({key})" for key, count in limits.items() if count), f"{ASSUMED_ROWS}")
    said = [
        f"The data is not read: every client has {rows} training rows of {data.max_tokens} tokens each.",
        f"Speeds and the runtime's memory: {setting.calibration.name}.",
    ]
    options = setting.config.heterotune
    if setting.config.strategy == "heterotune" and options.head_outputs == "labels":
        said.append(f"Class names have heterotune.head_basis = {options.head_basis} tokens; a run counts them.")
    if setting.config.strategy == "heterotune" and options.distill_every:
        said.append("What model types learn from one another in the server (heterotune.distill_every) takes no time.")
    if setting.config.clock.buffer is not None:
        said.append("Updates come from all clients alike, however fast their devices are (clock.mode = buffered).")
    if not setting.cluster.has_gpus:
        kind = (
            "gives freed memory back"
            if setting.returns_memory
            else "keeps freed memory, and how much differs from run to run (docs/planning.md)"
        )
        said.append(f"The heap {kind}: {setting.heap_factor:g} times the live bytes of a pass.")
    else:
        said.append("Figures for GPUs are derived and were not measured on one.")
    return said


def plan_json(plan: Plan) -> dict[str, Any]:
    """Return a plan as plain values; docs/planning.md lists the keys."""
    setting, layout = plan.setting, plan.layout
    names = [each.name for each in setting.model_types]
    memory = {
        phase: {place: dict(parts) for place, parts in each.by_place.items() if parts}
        for phase, each in layout.busiest.items()
    }
    return {
        "version": JSON_VERSION,
        "fits": layout.fits,
        "verdict": plan.verdict,
        "try": list(plan.ways_out),
        "cluster": asdict(setting.cluster) | {"num_ranks": setting.cluster.num_ranks},
        "placement": setting.config.placement,
        "ranks_of_type": {name: len(ranks) for name, ranks in zip(names, setting.placement.ranks_of_type, strict=True)},
        "dtype": setting.dtype,
        "chunk_clients": {names[place]: size for place, size in layout.chunk_clients.items()},
        "chunk_clients_picked": layout.picked,
        "memory_bytes": memory,
        "needs": [asdict(need) | {"fits": need.fits} for need in layout.needs],
        "devices": [fit.as_record() for fit in plan.devices],
        "federation_bytes": asdict(plan.bytes),
        "traffic_bytes": asdict(plan.traffic),
        "seconds": {
            "first_round": plan.first_time.seconds,
            "round": plan.time.seconds,
            "train": plan.time.train,
            "collect": plan.time.collect,
            "rest": plan.time.rest,
            "busy_share": plan.time.busy_share,
            "collect_by_topology": collect_by_topology(setting),
            "run": plan.run_seconds,
        },
        "parameters": {each.name: each.num_parameters for each in setting.model_types},
        "assumptions": assumptions(plan),
    }
