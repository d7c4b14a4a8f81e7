"""Bytes of the simulated federation: what clients send and get. Equal to the ledger, to the byte (a test)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from heterotune.adapters.dema import FRAME_GROUP
from heterotune.collective.codecs import codec_named
from heterotune.collective.wire import message_bytes
from heterotune.config.engine_options import CollectiveConfig
from heterotune.planning.setting import Setting
from heterotune.planning.shapes import TypeShape

FROZEN_CODEC = "fp32"


def up_bytes(shape: TypeShape, wire: CollectiveConfig) -> dict[str, int]:
    """Return tensor group -> bytes of the message in which a client sends it."""
    return {
        group: message_bytes(part.stop - part.start, wire.wire, topk_share=wire.topk_share)
        for group, part in shape.layout.group_columns.items()
    }


def down_bytes(shape: TypeShape, wire: CollectiveConfig) -> dict[str, int]:
    """Return tensor group -> bytes in which a client gets it: one message, or one a tensor in a format with blocks."""
    codec = wire.picked_wire_down
    sizes = {group: [spec.num_elements for spec in specs] for group, specs in shape.layout.downloads.items()}
    if codec_named(codec).has_blocks:
        return {group: sum(message_bytes(size, codec) for size in of_group) for group, of_group in sizes.items()}
    return {group: message_bytes(sum(of_group), codec) for group, of_group in sizes.items()}


def frozen_bytes(shape: TypeShape) -> dict[str, int]:
    """Return tensor group -> bytes that a client downloads when it first takes part."""
    head = shape.layout.head
    if head is None:
        return {}
    frame, basis = shape.frame_elements
    basis = head.basis_rank if head.outputs == "labels" else basis  # one number says what a row of Q is
    return {
        FRAME_GROUP: message_bytes(frame, FROZEN_CODEC),
        "dema.head.basis": message_bytes(basis, FROZEN_CODEC),
    }


@dataclass(frozen=True)
class FederationBytes:
    """What the clients of a run send and get.

    Attributes:
        up: Model type -> tensor group -> bytes of one client in one round.
        down: The same, down.
        down_once: Model type -> tensor group -> bytes that a client gets the first time.
        round_up_bytes: All clients of a round; the mean of all rounds but the first where these differ.
        round_down_bytes: The same down, without what comes once.
        total_bytes: Both directions, all rounds, with what comes once.
        full_model_bytes: Model type -> bytes of its whole model in fp32, what FedAvg of models would send.
    """

    up: dict[str, dict[str, int]]
    down: dict[str, dict[str, int]]
    down_once: dict[str, dict[str, int]]
    round_up_bytes: int
    round_down_bytes: int
    total_bytes: int
    full_model_bytes: dict[str, int]


def federation_bytes(setting: Setting) -> FederationBytes:
    """Return what the clients of a run send and get."""
    wire, first_counts, counts = setting.config.collective, setting.cohort_counts, setting.later_counts
    names = [each.name for each in setting.model_types]
    up = dict(zip(names, (up_bytes(shape, wire) for shape in setting.shapes), strict=True))
    down = dict(zip(names, (down_bytes(shape, wire) for shape in setting.shapes), strict=True))
    once = dict(zip(names, (frozen_bytes(shape) for shape in setting.shapes), strict=True))
    round_up, round_down = _sum_over(counts, up, names), _sum_over(counts, down, names)
    first_round = _sum_over(first_counts, up, names) + _sum_over(first_counts, down, names)
    once_bytes = sum(sum(once[names[place]].values()) * count for place, count in _ever_taking_part(setting).items())
    if setting.config.heterotune.realign_every:
        again = _downloads_of_new_maps(setting)
        once_bytes += sum(once[names[place]].get(FRAME_GROUP, 0) * count for place, count in again.items())
    return FederationBytes(
        up=up,
        down=down,
        down_once=once,
        round_up_bytes=round(round_up),
        round_down_bytes=round(round_down),
        total_bytes=round(first_round + (round_up + round_down) * (setting.config.rounds - 1)) + once_bytes,
        full_model_bytes={each.name: 4 * each.num_parameters for each in setting.model_types},
    )


def _sum_over(
    counts: Mapping[int, int] | Mapping[int, Fraction], groups: Mapping[str, Mapping[str, int]], names: Sequence[str]
) -> Fraction:
    """Return the bytes of a round's clients, of all tensor groups."""
    return sum((sum(groups[names[place]].values()) * Fraction(count) for place, count in counts.items()), Fraction())


def _downloads_of_new_maps(setting: Setting) -> Counter[int]:
    """Return place of a model type -> how often its clients find that their maps at the head are old."""
    config = setting.config
    known: dict[int, int] = {}
    aligned_after, found = 0, Counter[int]()
    for round_number in range(1, config.rounds + 1):
        cohort = setting.cohort_of(round_number)
        found.update(client.model_type for client in cohort if 0 < known.get(client.client_id, 0) <= aligned_after)
        known |= {client.client_id: round_number for client in cohort}
        if config.heterotune.realigns(round_number):
            aligned_after = round_number
    return found


def _ever_taking_part(setting: Setting) -> Counter[int]:
    """Return place of a model type -> clients that some round draws."""
    config, population = setting.config, setting.population
    known: set[int] = set()
    for round_number in range(1, config.rounds + 1):
        cohort = setting.cohort_of(round_number)
        known.update(client.client_id for client in cohort)
        if len(known) == population.num_members:
            break
    return Counter(map(population.model_type_of, known))
