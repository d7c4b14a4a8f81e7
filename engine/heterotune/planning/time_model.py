"""How long a round takes and what the simulator moves for it: counts from the model, speeds from the calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from statistics import fmean
from typing import get_args

from heterotune.config.field_types import TopologyName
from heterotune.fleet.assignment import passes_in_lock_step
from heterotune.fleet.chunks import Chunk
from heterotune.planning.buffers import sums_bytes
from heterotune.planning.client_bytes import down_bytes
from heterotune.planning.collecting import collect_seconds
from heterotune.planning.compute import compute_seconds
from heterotune.planning.setting import Setting
from heterotune.planning.shapes import TypeShape


@dataclass(frozen=True)
class Traffic:
    """What the simulator moves in a round; nothing of it is the federation's.

    Attributes:
        sum_to_root_bytes: That every rank but the root sends: exact sums, int64.
        broadcast_bytes: That every rank but the root receives.
        zero3_gather_bytes: That the busiest rank receives of other ranks' weights in all its passes.
    """

    sum_to_root_bytes: int
    broadcast_bytes: int
    zero3_gather_bytes: int


@dataclass(frozen=True)
class RoundTime:
    """Estimated seconds of a round, without evaluation and checkpoint.

    Attributes:
        train: Until the busiest rank has trained and sent its clients' updates.
        collect: Gather, combine and broadcast.
        rest: Drawing a cohort, records.
        busy_share: Training time of all ranks over what they have until the busiest is done.
    """

    train: float
    collect: float
    rest: float
    busy_share: float

    @property
    def seconds(self) -> float:
        """The whole round."""
        return self.train + self.collect + self.rest


def pass_seconds(place: int, num_clients: int, setting: Setting) -> float:
    """Return the seconds of one pass: computing, or weights that come meanwhile, whatever takes longer."""
    return max(compute_seconds(setting.shapes[place], num_clients, setting), stream_seconds(place, setting))


def stream_seconds(place: int, setting: Setting) -> float:
    """Return the seconds in which a pass's weights come from host memory, from NVMe and over the network."""
    shape, sharding, chosen = setting.shapes[place], setting.sharding_of(place), setting.calibration
    if not sharding.is_sharded:
        return 0.0
    whole = _read_bytes(shape, setting)
    mine = whole / sharding.group_size
    seconds = 0.0
    if sharding.place == "nvme":
        seconds = mine * setting.cluster.ranks_per_node / chosen.nvme_bytes_per_second
    elif sharding.place == "cpu" and setting.cluster.has_gpus:
        seconds = mine / chosen.stream_bytes_per_second
    ranks_of_node = min(setting.cluster.ranks_per_node, sharding.group_size)
    from_other_nodes = whole * (1 - ranks_of_node / sharding.group_size) * ranks_of_node
    between_ranks = whole * (1 - 1 / sharding.group_size) / chosen.gather_bytes_per_second
    return max(seconds, between_ranks, from_other_nodes / _link(setting))


def traffic(setting: Setting, by_rank: Sequence[Sequence[Chunk]]) -> Traffic:
    """Return what a round moves between ranks."""
    several = setting.cluster.num_ranks > 1
    sums = sum(sums_bytes(setting.shapes[place]) for place, count in setting.cohort_counts.items() if count)
    down = sum(sum(down_bytes(shape, setting.config.collective).values()) for shape in setting.shapes)
    gathers = [0.0] * len(setting.placement.crews)
    for place, shape in enumerate(setting.shapes):
        whole, sharding = _read_bytes(shape, setting), setting.sharding_of(place)
        part = 1 - 1 / sharding.group_size if sharding.is_sharded else 0.0
        crew = setting.placement.crew_of_rank[setting.placement.ranks_of_type[place][0]]
        gathers[crew] += whole * part * passes_in_lock_step(by_rank, place)
    return Traffic(sums * several, down * several, round(max(gathers)))


def round_time(setting: Setting, by_rank: Sequence[Sequence[Chunk]]) -> RoundTime:
    """Return how long a round takes."""
    own = [_seconds_by_type(setting, part) for part in by_rank]
    lock_step = setting.sharding.is_sharded and setting.config.backbone.group != "rank"
    if lock_step:  # ranks of a crew train every type at the same time; those without work run along
        train = max(map(sum, _slowest_by_crew(setting, own)))
    else:
        train = max(map(sum, own))
    collect = collect_by_topology(setting)[setting.config.collective.topology]
    busy = sum(sum(part) for part in own) / (train * len(by_rank)) if train else 0.0
    return RoundTime(train, collect, setting.calibration.round_seconds, busy)


def mean_time(times: Sequence[RoundTime]) -> RoundTime:
    """Return the mean of several rounds."""
    return RoundTime(*map(fmean, zip(*map(astuple, times), strict=True)))


def collect_by_topology(setting: Setting) -> dict[TopologyName, float]:
    """Return what gathering, combining and broadcasting take under each topology."""
    num_ranks, speed = setting.cluster.num_ranks, bytes_per_second(setting)
    return {
        name: collect_seconds(name, num_values(setting), num_ranks, setting.calibration, speed)
        for name in get_args(TopologyName)
    }


def num_values(setting: Setting) -> int:
    """Return the values that travel between ranks in a round: those of every model type that takes part."""
    shapes, counts = setting.shapes, setting.cohort_counts
    return sum(shapes[place].layout.num_travelling for place, count in counts.items() if count)


def bytes_per_second(setting: Setting) -> float:
    """Return how fast a rank sends to another: on its node, or over the network that the ranks of a node share."""
    if setting.cluster.nodes == 1:
        return setting.calibration.gather_bytes_per_second
    return _link(setting)


def _slowest_by_crew(setting: Setting, own: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return for each crew, by model type, the seconds of its rank that takes longest for it."""
    slowest = [[0.0] * len(setting.shapes) for _ in setting.placement.crews]
    for crew, part in zip(setting.placement.crew_of_rank, own, strict=True):
        slowest[crew] = [*map(max, slowest[crew], part)]
    return slowest


def _seconds_by_type(setting: Setting, mine: Sequence[Chunk]) -> list[float]:
    seconds = [0.0] * len(setting.shapes)
    for chunk in mine:
        place, num_clients = chunk.model_type, len(chunk.clients)
        elements = num_clients * setting.shapes[place].layout.num_travelling
        seconds[place] += chunk.num_passes * pass_seconds(place, num_clients, setting)
        seconds[place] += setting.calibration.chunk_seconds + elements * setting.calibration.update_seconds
    return seconds


def _read_bytes(shape: TypeShape, setting: Setting) -> int:
    """Return the bytes of weights that a pass reads: forward, backward, and forward again with checkpointing.

    Layers below the lowest that trains are read forward only.
    """
    again = 2 if setting.config.backbone.checkpointing else 1
    forward_only = shape.num_forward_only * shape.layer_elements
    return setting.dtype_bytes * (shape.model_type.num_parameters * (1 + again) - forward_only * again)


def _link(setting: Setting) -> float:
    """Return the network of a node in bytes per second."""
    return (setting.cluster.link_gbps or setting.calibration.link_gbps) * 1e9 / 8
