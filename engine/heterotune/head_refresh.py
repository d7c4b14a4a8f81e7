"""The head branch between rounds: public rows read with the adapters as they are now align it anew, or teach it.

`realign_every`: the frozen maps are found again, since trained layers move the final states; cores are expressed in the
new coordinates so that what the branch adds on the public rows changes least.
`distill_every`: every core moves towards what all types together answer on the public rows, which is how a type learns
of labels that only other types saw.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from heterotune.adapters.alignment import RIDGE
from heterotune.adapters.attach import AttachedAdapter
from heterotune.adapters.bank import Bank, HeadFrame
from heterotune.adapters.head_fit import centred, common_answer, coordinates, fit_core
from heterotune.collective.channel import ROOT
from heterotune.federation import Federation
from heterotune.head_frames import align_states, frames_of, from_root, output_embedding, public_states

_NO_RIDGE = 1e-6  # what a core is now is not noise; only keeps the equations solvable


@dataclass(frozen=True)
class Refreshed:
    """What came of a refreshed head branch.

    Attributes:
        frames: Each model type's maps to go on with.
        cores: Key -> core.
        answer_NC: Logits of what all types together answered on the public rows; at the root, after distillation.
        metrics: What to log; the root's count.
    """

    frames: list[HeadFrame]
    cores: dict[str, Tensor]
    answer_NC: Tensor | None
    metrics: list[dict[str, Any]]


def refresh_head(
    federation: Federation,
    attached: Mapping[int, AttachedAdapter],
    banks: Mapping[int, Bank],
    frames: Sequence[HeadFrame],
    core_keys: Sequence[str],
    values: Mapping[str, Tensor],
    *,
    realign: bool,
    distill: bool,
) -> Refreshed:
    """Refresh the head branch. Every rank must call this; all get the root's bits.

    Args:
        federation: Backbones, public rows and channel.
        attached: Place of a model type -> its adapters on its backbone, where this rank holds it.
        banks: Place of a model type -> its global adapter, where this rank holds it.
        frames: Each model type's, of the round that was.
        core_keys: Key of each model type's core.
        values: Key -> the server's own value; the root's count.
        realign: Find the maps anew.
        distill: Teach the cores.
    """
    is_root, going_on = federation.channel.mpi_rank == ROOT, list(frames)
    states = _states(federation, attached, banks)
    cores = {key: values[key].double() for key in core_keys}
    metrics: list[dict[str, Any]] = []
    answer_NC = None
    if realign:
        found = align_states(federation, states, frames[0].down_RD.shape[0])
        going_on = frames_of(federation, found, frames[0].basis_QV)
        metrics.append({"name": "alignment/correlation", "value": found.correlation, "unit": "correlation"})
        if is_root:
            cores = _reexpressed(cores, core_keys, states, frames, going_on)
    if distill:
        tokens = federation.label_tokens  # a row of Q is one of them
        embeddings = [output_embedding(federation, place, tokens) for place in range(len(frames))]
        if is_root:
            cores, answer_NC, agreements = _distilled(cores, core_keys, states, going_on, embeddings)
            entry = {"name": "distill/agreement", "unit": "share"}
            names = [model_type.name for model_type in federation.model_types]
            metrics += [{**entry, "model_type": m, "value": v} for m, v in zip(names, agreements, strict=True)]
    sent = {key: from_root(core.float(), federation.channel) for key, core in sorted(cores.items())}
    return Refreshed(going_on, sent, answer_NC, metrics)


def _states(
    federation: Federation, attached: Mapping[int, AttachedAdapter], banks: Mapping[int, Bank]
) -> list[Tensor | None]:
    """Return every type's final states at the public positions with its global adapter, at the root."""
    states = []
    for place in range(len(federation.model_types)):
        with attached[place].use(banks[place]) if place in banks else nullcontext():
            states.append(public_states(federation, place))
    return states


def _reexpressed(
    cores: Mapping[str, Tensor],
    keys: Sequence[str],
    states: Sequence[Tensor],
    old: Sequence[HeadFrame],
    new: Sequence[HeadFrame],
) -> dict[str, Tensor]:
    """Return cores that add in new coordinates what they added in the old ones, by least squares."""
    wanted = [coordinates(x, frame) @ cores[key] for x, frame, key in zip(states, old, keys, strict=True)]
    return _fitted(keys, [coordinates(x, frame) for x, frame in zip(states, new, strict=True)], wanted, _NO_RIDGE)


def _distilled(
    cores: Mapping[str, Tensor],
    keys: Sequence[str],
    states: Sequence[Tensor],
    frames: Sequence[HeadFrame],
    embeddings: Sequence[Tensor],
) -> tuple[dict[str, Tensor], Tensor, list[float]]:
    """Return cores that bring every type's answers closest to the mean of all types', that mean, and who agreed before.

    Embeddings are of the labels' tokens, in the order of the branch's outputs.
    """
    inside = [coordinates(x, frame) for x, frame in zip(states, frames, strict=True)]
    answers = [
        centred(x.double() @ embedding.double().T + c @ cores[key])
        for x, embedding, c, key in zip(states, embeddings, inside, keys, strict=True)
    ]
    wanted = common_answer(answers)
    change = _fitted(keys, inside, [wanted - answer for answer in answers])
    best = wanted.argmax(dim=1)
    agreements = [(answer.argmax(dim=1) == best).double().mean().item() for answer in answers]
    return {key: core + change[key] for key, core in cores.items()}, wanted, agreements


def _fitted(
    keys: Sequence[str], inputs: Sequence[Tensor], wanted: Sequence[Tensor], ridge: float = RIDGE
) -> dict[str, Tensor]:
    """Return one core for all types that share it."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        places[key].append(place)
    return {key: fit_core([inputs[i] for i in of], [wanted[i] for i in of], ridge=ridge) for key, of in places.items()}
