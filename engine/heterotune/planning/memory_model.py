"""What a rank needs, by phase, place and component. Our derivation, checked by tools/benchmarks/plan.py on CPUs.

Places are where memory is counted: host (resident), pinned (part of host), nvme, gpu. Phases are those of memory.jsonl.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from heterotune.collective.channel import ROOT
from heterotune.fleet.chunks import Chunk
from heterotune.planning import activations as act
from heterotune.planning.backbone_memory import ahead_elements, late_elements
from heterotune.planning.bank_memory import bank_bytes, copies_in_pass_bytes, moments_bytes, step_bytes
from heterotune.planning.buffers import (
    broadcast_bytes,
    data_bytes,
    kept_bytes,
    server_state_bytes,
    sums_bytes,
    update_bytes,
)
from heterotune.planning.setting import Setting
from heterotune.profiling import components as words

Place = Literal["host", "pinned", "nvme", "gpu"]
Components = Counter[str]
TILE_BYTES = 24 << 20
"""What `aggregation/exact.py` has at hand while it adds a tile of 2^20 elements: two in float64, one in int64."""
HEAP_LIMIT_BYTES = 32 << 20
"""glibc maps tensors above this from the system, always, and gives them back when they are freed."""


@dataclass(frozen=True)
class RankMemory:
    """What one rank needs in one phase.

    Attributes:
        phase: As in memory.jsonl.
        by_place: Place -> component -> bytes.
    """

    phase: str
    by_place: Mapping[Place, Mapping[str, int]]

    def total_bytes(self, place: Place) -> int:
        """Return the bytes in one place."""
        return sum(self.by_place[place].values())


def rank_memory(setting: Setting, mine: Sequence[Chunk], *, mpi_rank: int = 0) -> dict[str, RankMemory]:
    """Return what one rank needs in every phase.

    Args:
        setting: The run and the machines.
        mine: The chunks that the rank trains in a round.
        mpi_rank: Says which model types it holds, and whether it is the root.
    """
    is_root, held = mpi_rank == ROOT, setting.placement.held_by(mpi_rank)
    static_host, static_gpu = _static(setting, held)
    static_host[words.BUFFERS] += server_state_bytes(setting) * is_root
    largest: dict[str, Components] = {"train": Counter(), "encode": Counter()}
    sizes = Counter((chunk.model_type, len(chunk.clients)) for chunk in mine)
    for place, num_clients in sizes:
        again = len(mine) > 1  # the result of the chunk before is still there
        largest["train"] = _larger(largest["train"], train_components(setting, place, num_clients, again=again))
        largest["encode"] = _larger(largest["encode"], _encode(setting, place, num_clients))
    largest["load"] = _load(setting, held)
    largest["evaluate"] = _larger(*(_evaluate(setting, place) for place in held))
    largest["gather"] = Counter({words.BUFFERS: sum(sums_bytes(shape) for shape in setting.shapes)})
    largest["aggregate"] = Counter({words.BUFFERS: _combining(setting, is_root)})
    largest["broadcast"] = Counter({words.BUFFERS: broadcast_bytes(setting.shapes)})
    largest["checkpoint"] = Counter({words.BUFFERS: broadcast_bytes(setting.shapes) * is_root})
    phases = ("load", "evaluate", "train", "encode", "gather", "aggregate", "broadcast", "checkpoint")
    return {phase: _placed(setting, phase, static_host, static_gpu, largest, held) for phase in phases}


def train_components(setting: Setting, place: int, num_clients: int, *, again: bool = False) -> Components:
    """Return what training a chunk adds at its peak, live bytes where the rank computes.

    Four moments compete: the start of a pass with weights gathered ahead, the loss, the last layer's backward pass, and
    the optimiser's step.
    """
    shape, config = setting.shapes[place], setting.config
    wide, tokens = setting.dtype_bytes, num_clients * setting.tokens_per_client
    factor = {"checkpointing": config.backbone.checkpointing}
    saved = act.saved_by_pass(shape, wide, **factor)
    copies = copies_in_pass_bytes(shape, num_clients, wide)
    head = act.at_head(shape, wide)
    back = act.in_backward(shape, wide, **factor)
    moments: tuple[Components, ...] = (
        Counter({words.GATHERED_LAYERS: _ahead(setting, place)}),
        Counter(
            {
                words.ACTIVATIONS: _resident(setting, [*saved, *head], tokens) + copies,
                words.LOGITS: _grown(setting, act.logits_bytes(shape, wide, tokens)),
                words.GATHERED_LAYERS: _grown(setting, late_elements(shape, setting.sharding_of(place)) * wide),
            }
        ),
        Counter(
            {
                words.ACTIVATIONS: _resident(setting, [*saved, *back], tokens) + copies,
                words.GATHERED_LAYERS: _grown(setting, late_elements(shape, setting.sharding_of(place)) * wide),
            }
        ),
        Counter({words.OPTIMIZER_STATE: step_bytes(shape, num_clients, config.local)}),
    )
    kept = 2 * 4 * shape.layout.num_columns * num_clients if again and not setting.cluster.has_gpus else 0
    bank = Counter(
        {
            words.ADAPTERS: bank_bytes(shape, num_clients) + kept,
            words.OPTIMIZER_STATE: moments_bytes(shape, num_clients, config.local),
        }
    )
    return _larger(*moments) + bank


def _ahead(setting: Setting, place: int) -> int:
    """Return what is gathered when a pass begins, beyond the embedding that stayed from the pass before.

    It is in memory twice for a moment, as one flat buffer and cut into parameters.
    """
    shape = setting.shapes[place]
    elements = 2 * ahead_elements(shape, setting.sharding_of(place)) - shape.embedding_elements
    return _grown(setting, max(0, elements) * setting.dtype_bytes)


def _static(setting: Setting, held: Sequence[int]) -> tuple[Components, Components]:
    """Return what is there in every phase: in host memory beside the GPU's, and on the GPU."""
    chosen, sharding, wide = setting.calibration, setting.sharding, setting.dtype_bytes
    runtime = chosen.runtime_bytes + chosen.mpi_bytes * (setting.cluster.num_ranks > 1)
    host: Components = Counter({words.RUNTIME: runtime + chosen.deepspeed_bytes * sharding.is_sharded})
    host[words.DATA] = data_bytes(setting)
    host[words.BUFFERS] = kept_bytes(setting)
    shards = setting.backbone_bytes_of(held)
    compute: Components = Counter()
    if sharding.place in ("replica", "device"):
        compute[words.BACKBONE_SHARDS] = shards
    elif sharding.place == "cpu":
        host[words.BACKBONE_SHARDS] = shards
    else:
        host[words.BACKBONE_SHARDS] = sharding.nvme_buffer_elements * wide
    gathered = [setting.shapes[place].embedding_elements for place in held if setting.sharding_of(place).gathers]
    if gathered:
        compute[words.GATHERED_LAYERS] = sum(gathered) * wide
    compute[words.ADAPTERS] = sum(4 * shape.frame_elements[0] for shape in setting.shapes)
    compute[words.ADAPTERS] += 4 * max(shape.frame_elements[1] for shape in setting.shapes)
    return (host, compute) if setting.cluster.has_gpus else (host + compute, Counter())


def _placed(
    setting: Setting,
    phase: str,
    host: Components,
    gpu: Components,
    largest: Mapping[str, Components],
    held: Sequence[int],
) -> RankMemory:
    """Put a phase's components where they are."""
    sharding, nvme = setting.sharding, Counter()
    if sharding.place == "nvme":
        nvme[words.BACKBONE_SHARDS] = setting.backbone_bytes_of(held)
    if phase == "load":
        host = Counter({words.RUNTIME: host[words.RUNTIME], words.DATA: host[words.DATA]})
    added = largest[phase]
    if setting.cluster.has_gpus:
        on_gpu = phase in ("train", "evaluate")
        host, gpu = (host, gpu + added) if on_gpu else (host + added, gpu)
    else:
        # A CPU's heap keeps what training freed: what comes after finds it there.
        keeps = phase not in ("load", "train") and not setting.returns_memory
        host = host + (_larger(added, largest["train"]) if keeps else added)
    pinned = (
        {words.BACKBONE_SHARDS: host[words.BACKBONE_SHARDS]} if sharding.pinned and setting.cluster.has_gpus else {}
    )
    return RankMemory(phase, {"host": dict(host), "pinned": pinned, "nvme": dict(nvme), "gpu": dict(gpu)})


def _encode(setting: Setting, place: int, num_clients: int) -> Components:
    """Return what sending a chunk's updates needs: the chunk's result, and what arrives."""
    layout = setting.shapes[place].layout
    return Counter({words.BUFFERS: 4 * num_clients * (2 * layout.num_columns + layout.num_travelling) + TILE_BYTES})


def _evaluate(setting: Setting, place: int) -> Components:
    shape, wide = setting.shapes[place], setting.dtype_bytes
    evaluate, width = setting.config.evaluate, setting.config.data.max_tokens
    if "exact_match" in evaluate.metrics:
        width += evaluate.max_new_tokens
    tokens = evaluate.batch_size * width
    return Counter(
        {
            words.ACTIVATIONS: _resident(setting, act.in_evaluation(shape, wide), tokens),
            words.LOGITS: _grown(setting, act.logits_bytes(shape, wide, tokens)),
            words.GATHERED_LAYERS: ahead_elements(shape, setting.sharding_of(place)) * wide,
        }
    )


def _load(setting: Setting, held: Sequence[int]) -> Components:
    """Return what loading needs: the rank's backbones, and one whole block, in float32 where it is drawn."""
    blocks = [
        (4 if shape.model_type.source.folder is None else setting.dtype_bytes)
        * max(shape.layer_elements, shape.embedding_elements)
        for shape in (setting.shapes[place] for place in held)
    ]
    is_extra = setting.sharding.is_sharded or setting.cluster.num_ranks > 1
    return Counter({words.BACKBONE_SHARDS: setting.backbone_bytes_of(held) + (max(blocks) if is_extra else 0)})


def _resident(setting: Setting, tensors: act.Tensors, tokens: int) -> int:
    """Return the memory of tensors: live bytes on a GPU; on a CPU with what the heap adds to tensors of its sizes."""
    small = [pair for pair in tensors if pair[0] * tokens < HEAP_LIMIT_BYTES]
    large = [pair for pair in tensors if pair[0] * tokens >= HEAP_LIMIT_BYTES]
    return _grown(setting, act.total(small, tokens)) + act.total(large, tokens)


def _grown(setting: Setting, num_bytes: int) -> int:
    return num_bytes if setting.cluster.has_gpus else round(num_bytes * setting.heap_factor)


def _combining(setting: Setting, is_root: bool) -> int:
    """Return what combining updates needs: all of it at the root, or a slice on every rank."""
    whole = sum(update_bytes(shape) for shape in setting.shapes) + server_state_bytes(setting)  # a new one beside it
    if setting.config.collective.topology == "sharded":
        return whole // setting.cluster.num_ranks
    return whole * is_root


def _larger(*choices: Components) -> Components:
    return max(choices, key=lambda each: each.total())
