"""Does a run fit the memory of its nodes and GPUs, with which chunk sizes, and if not, what would."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from heterotune.fleet.chunks import Chunk
from heterotune.planning.memory_model import RankMemory, rank_memory
from heterotune.planning.setting import Setting
from heterotune.profiling.components import BACKBONE_SHARDS
from heterotune.report.quantities import format_bytes

MAX_TRIES = 4


@dataclass(frozen=True)
class Need:
    """The peak of one kind of memory against its limit.

    Attributes:
        where: "GPU", "host memory of a node" or "NVMe of a node".
        need_bytes: At most over phases and ranks.
        limit_bytes: What there is; None = not given.
        phase: When.
        component: The largest part then.
    """

    where: str
    need_bytes: int
    limit_bytes: int | None
    phase: str
    component: str

    @property
    def fits(self) -> bool:
        """Whether there is enough, as far as is known."""
        return self.limit_bytes is None or self.need_bytes <= self.limit_bytes


@dataclass(frozen=True)
class Layout:
    """Chunk sizes and what follows from them.

    Attributes:
        chunk_clients: Place of a model type -> clients per chunk.
        picked: Whether the plan chose them.
        by_rank: Which rank trains what in a round.
        busiest: Phase -> memory of the rank that needs most while it trains.
        needs: Every kind of memory.
    """

    chunk_clients: dict[int, int]
    picked: bool
    by_rank: tuple[tuple[Chunk, ...], ...]
    busiest: dict[str, RankMemory]
    needs: tuple[Need, ...]

    @property
    def fits(self) -> bool:
        """Whether everything fits."""
        return all(need.fits for need in self.needs)


def lay_out(setting: Setting) -> Layout:
    """Choose chunk sizes, the largest that fit where the run says auto, and say what they need."""
    fixed = _fixed_sizes(setting)
    largest = {place: fixed.get(place, _largest_useful(setting, place)) for place in range(len(setting.shapes))}
    chosen = dict(largest)
    for place in chosen:
        if place not in fixed:
            alone = {other: 1 for other in chosen} | fixed
            chosen[place] = _largest_fitting(setting, place, alone, largest[place])
    return _measured(setting, chosen, picked=len(fixed) < len(chosen))


def ways_out(setting: Setting) -> list[str]:
    """Return changes that make a run fit, each tried on the model; the last resort is several of them together."""
    changes = list(_changes(setting))
    single = [label for label, change in changes if lay_out(change(setting)).fits]
    if single:
        return single[:MAX_TRIES]
    labels, tried, over = [], setting, _over(lay_out(setting))
    for label, change in changes:
        changed = lay_out(change(tried))
        if _over(changed) < over:  # what helps one kind of memory may burden another
            labels, tried, over = [*labels, label], change(tried), _over(changed)
        if over <= 1.0:
            return [" and ".join(labels)]
    return []


def _over(layout: Layout) -> float:
    """Return how much more is needed than there is, of the kind of memory that lacks most."""
    return max(need.need_bytes / need.limit_bytes for need in layout.needs if need.limit_bytes is not None)


def _fixed_sizes(setting: Setting) -> dict[int, int]:
    chunk = setting.config.chunk
    sizes = {} if chunk.clients == "auto" else dict.fromkeys(range(len(setting.shapes)), chunk.clients)
    for place, model_type in enumerate(setting.model_types):
        if model_type.name in chunk.of_type:
            sizes[place] = chunk.of_type[model_type.name]
    return sizes


def _per_rank(setting: Setting, place: int) -> int:
    return -(-setting.cohort_counts[place] // len(setting.placement.ranks_of_type[place]))


def _largest_useful(setting: Setting, place: int) -> int:
    """Return the size that gives every rank one chunk, as far as the run file lets it."""
    return max(1, min(_per_rank(setting, place), setting.config.chunk.max_clients))


def _largest_fitting(setting: Setting, place: int, others: dict[int, int], largest: int) -> int:
    """Return the largest size with which the run fits, 1 if none does; less where as many chunks can be equal."""
    low, high = 1, largest
    while low < high:
        middle = (low + high + 1) // 2
        if _measured(setting, {**others, place: middle}, picked=True).fits:
            low = middle
        else:
            high = middle - 1
    per_rank = max(1, _per_rank(setting, place))
    return -(-per_rank // -(-per_rank // low))


def _measured(setting: Setting, chunk_clients: dict[int, int], *, picked: bool) -> Layout:
    by_rank = setting.chunks_by_rank(chunk_clients)
    memories = _memories(setting, by_rank)
    place = "gpu" if setting.cluster.has_gpus else "host"
    busiest = max(memories, key=lambda each: each["train"].total_bytes(place))
    return Layout(chunk_clients, picked, by_rank, busiest, tuple(_needs(setting, busiest)))


def _memories(setting: Setting, by_rank: tuple[tuple[Chunk, ...], ...]) -> list[dict[str, RankMemory]]:
    """Return the memory of every kind of rank: those that train the same chunks need the same."""
    kinds: dict[tuple, int] = {}
    for mpi_rank, part in enumerate(by_rank):
        sizes = Counter((chunk.model_type, len(chunk.clients)) for chunk in part)
        kinds.setdefault((setting.placement.crew_of_rank[mpi_rank], len(part) > 1, frozenset(sizes)), mpi_rank)
    return [rank_memory(setting, by_rank[mpi_rank], mpi_rank=mpi_rank) for mpi_rank in kinds.values()]


def _needs(setting: Setting, memory: dict[str, RankMemory]) -> Iterator[Need]:
    cluster, chosen = setting.cluster, setting.calibration
    if cluster.has_gpus:
        share = cluster.ranks_per_gpu

        def on_gpu(each: RankMemory) -> int:
            allocated = round(each.total_bytes("gpu") * chosen.device_reserved_factor)
            return share * (allocated + chosen.device_runtime_bytes)

        yield _need("a GPU", "gpu", memory, on_gpu, cluster.gpu_memory_bytes)

    def on_host(each: RankMemory) -> int:
        mine = each.total_bytes("host")
        if not _is_mapped_once(setting):
            return cluster.ranks_per_node * mine
        once = setting.backbone_bytes_of(range(len(setting.shapes)))  # at most: a node may hold fewer model types
        return cluster.ranks_per_node * (mine - each.by_place["host"].get(BACKBONE_SHARDS, 0)) + once

    yield _need("the host memory of a node", "host", memory, on_host, cluster.host_memory_bytes)
    if setting.sharding.place == "nvme":

        def on_nvme(each: RankMemory) -> int:
            return cluster.ranks_per_node * each.total_bytes("nvme")

        yield _need("the NVMe of a node", "nvme", memory, on_nvme, cluster.nvme_bytes)


def _is_mapped_once(setting: Setting) -> bool:
    """Plain replicas on CPUs are pages of one file, which a node has once."""
    return not setting.sharding.is_sharded and not setting.cluster.has_gpus


def _need(
    where: str, place: str, memory: dict[str, RankMemory], num_bytes: Callable[[RankMemory], int], limit: int | None
) -> Need:
    peak = max(memory.values(), key=lambda each: (num_bytes(each), each.phase == "train"))
    parts = peak.by_place[place]
    component = max(parts, key=lambda name: parts[name], default="")
    return Need(where, num_bytes(peak), limit, peak.phase, component)


def _changes(setting: Setting) -> Iterator[tuple[str, Callable[[Setting], Setting]]]:
    """Yield what could be changed, mild changes first; only what this run does not do already."""
    config, cluster = setting.config, setting.cluster
    if config.chunk.clients != "auto" or config.chunk.of_type:
        yield "chunk.clients: 1", _with("chunk", clients=1, of_type={})
    if not config.backbone.checkpointing:
        yield "backbone.checkpointing: true", _with("backbone", checkpointing=True)
    if setting.dtype == "fp32" and cluster.has_gpus:
        yield "backbone.dtype: bf16", _with("backbone", dtype="bf16")
    if setting.sharding.place in ("replica", "device"):
        yield "backbone.ds_config: zero3_cpu", _with("backbone", ds_config="zero3_cpu")
    if setting.sharding.group_size < cluster.num_ranks and setting.sharding.is_sharded:
        yield "backbone.group: world", _with("backbone", group="world")
    if not cluster.has_gpus and not setting.returns_memory:
        yield "MALLOC_MMAP_THRESHOLD_=1048576 in the job's environment", lambda old: replace(old, returns_memory=True)
    if setting.sharding.place != "nvme":
        yield "backbone.ds_config: zero3_nvme", _with("backbone", ds_config="zero3_nvme")
    if config.local.batch_size > 1:
        yield "local.batch_size: 1", _with("local", batch_size=1)
    if config.data.max_tokens > 8:
        half = max(8, config.data.max_tokens // 2)
        yield f"data.max_tokens: {half}", _with("data", max_tokens=half)
    doubled = 2 * cluster.nodes
    yield f"--nodes {doubled}", lambda old: replace(old, cluster=replace(old.cluster, nodes=2 * old.cluster.nodes))


def _with(section: str, **update: object) -> Callable[[Setting], Setting]:
    def change(old: Setting) -> Setting:
        changed = getattr(old.config, section).model_copy(update=update)
        return replace(old, config=old.config.model_copy(update={section: changed}))

    return change


def because(layout: Layout) -> str:
    """Say in words what does not fit."""
    lacking = [need for need in layout.needs if not need.fits]
    return "; ".join(
        f"{need.where} would need {format_bytes(need.need_bytes)} of {format_bytes(need.limit_bytes or 0)} "
        f"in phase {need.phase}, most of it {need.component}"
        for need in lacking
    )
