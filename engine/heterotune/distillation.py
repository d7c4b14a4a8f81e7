"""Model types learn from one another: the server trains each type's adapter towards what all types answer together.

Teacher and loss are those of FedDF (Lin et al., 2020): the mean of all types' probabilities on public questions, and
cross-entropy. Ours: only adapters train, and a tensor that several types share takes the mean of their steps. Nobody's
rows are used but the public ones, and no client takes part.

Legend: N public questions, C classes, R rows of a step, P trained elements of a type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heterotune.adapters.attach import AttachedAdapter, head_features
from heterotune.adapters.bank import Bank
from heterotune.adapters.layout import AdapterLayout
from heterotune.backbone.load import Backbone
from heterotune.collective.channel import ROOT
from heterotune.config.method_options import LocalConfig
from heterotune.config.schema import RunConfig
from heterotune.data.batches import batches
from heterotune.data.tokenizing import IGNORED
from heterotune.federation import Federation
from heterotune.fleet.chunks import Chunk
from heterotune.fleet.clients import Client
from heterotune.head_frames import from_root
from heterotune.randomness import NO_CLIENT
from heterotune.training.local import train_chunk
from heterotune.training.local_rule import LocalRule, Objective
from heterotune.training.objective import ChunkBatch


def teach_adapters(
    federation: Federation,
    attached: Mapping[int, AttachedAdapter],
    banks: Mapping[int, Bank],
    layouts: Sequence[AdapterLayout],
    values: Mapping[str, Tensor],
    answer_NC: Tensor | None,
    round_number: int,
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Return the new common values by key, the same on every rank, and what to log. Every rank must call this.

    Args:
        federation: Backbones, public rows and channel.
        attached: Place of a model type -> its adapters on its backbone, where this rank holds it.
        banks: Place of a model type -> its global adapter, where this rank holds it; changed.
        layouts: Of all model types.
        values: Key -> the server's own value; the root's count.
        answer_NC: Logits of what all types answer together; the root's count, None elsewhere.
        round_number: The round after which this is.
    """
    answer_NC = _from_root(answer_NC, federation)
    ranks = federation.placement.ranks_of_type
    teachers = [holders[place % len(holders)] for place, holders in enumerate(ranks)]
    lessons = {
        place: _lesson(federation, attached[place], bank, place, answer_NC, round_number)
        for place, bank in banks.items()
        if _takes_part(federation, federation.backbones[place], teachers[place])
    }  # all before the first is sent: ranks teach side by side
    updates, metrics = [], []
    for place, (layout, teacher) in enumerate(zip(layouts, teachers, strict=True)):
        found = _at_root(lessons.get(place), federation, teacher)
        if found is not None:
            update_P, loss = found
            updates.append({spec.key: update_P[layout.columns[spec.name]] for spec in layout.travelling})
            entry = {"name": "distill/loss", "model_type": layout.model_type, "unit": "nats/question"}
            metrics.append({**entry, "value": loss})
    sizes = {spec.key: spec.num_elements for layout in layouts for spec in layout.travelling}
    return _moved(values, updates, sizes, federation), metrics


def lesson_options(config: RunConfig) -> LocalConfig:
    """Return how an adapter is taught: batches, betas and clipping of a client, AdamW at a constant rate.

    Clients train with AdamW, too (config/distillation_checks.py), so that a share of their rate is one for AdamW.
    """
    options, local = config.heterotune, config.local
    changed = {
        "steps": options.distill_steps,
        "epochs": None,
        "optimizer": "adamw",
        "learning_rate": options.distill_learning_rate_scale * local.learning_rate,
        "schedule": "constant",
        "warmup_steps": 0,
    }
    return local.model_copy(update=changed)


def soft_objective(embedding_CD: Tensor, share_NC: Tensor) -> Objective:
    """Return the cross-entropy of a row's classes against the shares that all types together give them.

    Args:
        embedding_CD: The output embedding's rows of the classes' tokens, in the order of the head branch's features; on
            the backbone's device.
        share_NC: Wanted probabilities; a batch's `labels_R` are rows of it.
    """

    def objective(backbone: Backbone, bank: Bank, batch: ChunkBatch) -> Tensor:
        hidden_RTD = backbone.lm(batch.input_ids_RT, None)
        counts_RT = batch.targets_RT != IGNORED
        logits_RC = hidden_RTD[counts_RT] @ embedding_CD.to(hidden_RTD.dtype).T
        features_RTC = head_features(hidden_RTD, bank)
        if features_RTC is not None:
            logits_RC = logits_RC + features_RTC[counts_RT]
        losses_R = -(share_NC[batch.labels_R] * torch.log_softmax(logits_RC.float(), dim=1)).sum(dim=1)
        return losses_R.view(bank.num_clients, -1).mean(dim=1)

    return objective


def _takes_part(federation: Federation, backbone: Backbone, teacher: int) -> bool:
    """Whether this rank makes the passes that teach a type: the teacher does, and who shares its copy in lock step."""
    return federation.channel.mpi_rank == teacher or (backbone.in_lock_step and teacher in backbone.mpi_ranks)


def _with_personal_frozen(bank: Bank) -> Bank:
    """Return an adapter on the same values of which what clients keep does not train."""
    layout = bank.layout
    if not layout.trains_personal:
        return bank
    tensors = tuple(replace(spec, trains=spec.trains and spec.scope != "client") for spec in layout.tensors)
    frozen = replace(layout, tensors=tensors)
    return Bank(frozen, bank.values_KP, bank.head_frame, bank.start_KP, bank.base)


def _lesson(
    federation: Federation,
    attached: AttachedAdapter,
    bank: Bank,
    place: int,
    answer_NC: Tensor,
    round_number: int,
) -> tuple[Tensor, float]:
    """Teach a type; returns its update (P,) and the mean loss of the steps. All ranks that share its copy call this."""
    backbone, config, public = federation.backbones[place], federation.config, federation.public
    options = lesson_options(config)
    embedding_CD = backbone.output_embedding(federation.label_tokens).to(backbone.device)
    share_NC = torch.softmax(answer_NC, dim=1).float().to(backbone.device)
    rows = public.take(np.arange(len(answer_NC)))
    picks_SB = batches(
        rows,
        seed=config.seed,
        round_number=round_number,
        client_id=NO_CLIENT,
        batch_size=options.batch_size,
        num_steps=options.steps,
    )

    def batch_of(picks_B: np.ndarray) -> ChunkBatch:
        part = rows.take(picks_B)
        longest = int(part.lengths.max())
        return ChunkBatch.of_rows(part.input_ids[:, :longest], part.targets[:, :longest], 1, backbone.device, picks_B)

    chunk = Chunk(place, (Client(NO_CLIENT, place, len(rows)),), (options.steps,))
    rule = LocalRule(soft_objective(embedding_CD, share_NC))
    batches_S = map(batch_of, picks_SB)
    trained = train_chunk(backbone, attached, _with_personal_frozen(bank), chunk, batches_S, options, rule)
    return trained.update_KP[0], trained.loss_K.item()


def _from_root(answer_NC: Tensor | None, federation: Federation) -> Tensor:
    """Return the root's answers on every rank, float32."""
    sent = answer_NC.float().numpy().tobytes() if federation.channel.mpi_rank == ROOT else None
    received = np.frombuffer(bytearray(federation.channel.broadcast_bytes(sent)), dtype=np.float32)
    return torch.from_numpy(received).view(-1, len(federation.label_tokens))


def _at_root(mine: tuple[Tensor, float] | None, federation: Federation, teacher: int) -> tuple[Tensor, float] | None:
    """Return a teacher's update and loss at the root, None elsewhere. Every rank must call this."""
    sent = b""
    if federation.channel.mpi_rank == teacher:
        update_P, loss = mine
        sent = np.append(update_P.numpy(), np.float32(loss)).tobytes()
    gathered = federation.channel.gather_bytes(sent)
    if gathered is None:
        return None
    found = torch.from_numpy(np.frombuffer(bytearray(gathered[teacher]), dtype=np.float32))
    return found[:-1], found[-1].item()


def _moved(
    values: Mapping[str, Tensor],
    updates: Sequence[Mapping[str, Tensor]],
    sizes: Mapping[str, int],
    federation: Federation,
) -> dict[str, Tensor]:
    """Return the values moved by the mean update of the types that share each, on every rank; the root's count."""
    flat = torch.zeros(sum(sizes.values()))
    if federation.channel.mpi_rank == ROOT:
        mean = {key: torch.stack([each[key].double() for each in updates if key in each]).mean(dim=0) for key in sizes}
        flat = torch.cat([(values[key].flatten().double() + mean[key]).float() for key in sizes])
    return dict(zip(sizes, from_root(flat, federation.channel).split(list(sizes.values())), strict=True))
