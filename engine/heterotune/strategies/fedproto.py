"""FedProto: clients keep their models and share what the mean feature of each class looks like.

Source: Tan et al. (AAAI 2022), formulas as in its released code: a class's prototype is the plain mean of the means of
the clients that have the class. Our mapping to language models: the feature of a row is a projection of the final
hidden state where the answer begins, its class the row's label; LoRA and the trained part of the projection never leave
a client. Differs: means are over all steps of a round, not over its last epoch; answers come from the language model
head, not from the nearest prototype.

A client sends and gets num_classes * (feature_width + 1) numbers a round.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from heterotune.adapters.bank import Bank
from heterotune.adapters.layout import AdapterLayout
from heterotune.adapters.prototypes import OWN_PROJECTION, PROJECTION, PROTOTYPES, SEEN
from heterotune.adapters.tables import adapter_layout
from heterotune.backbone.load import Backbone
from heterotune.config.schema import RunConfig
from heterotune.data.tokenizing import IGNORED
from heterotune.strategies.strategy import Combined, ServerRound, Strategy, TypeUpdate, weighted_mean
from heterotune.training.local_rule import LocalRule
from heterotune.training.objective import ChunkBatch, mean_by_client, token_losses

_MEANS, _HOLDERS = f"fleet/{PROTOTYPES}", f"fleet/{SEEN}"


def make(config: RunConfig) -> Strategy:
    """Return personal models and shared prototypes."""

    def local_rule(layout: AdapterLayout, round_number: int) -> LocalRule:
        features = _ClassFeatures(config.fedproto.prototype_weight)
        return LocalRule(features.objective, finish=features.finish)

    layout = partial(adapter_layout, "fedproto", config)
    return Strategy("fedproto", layout, combine, local_rule, weights="clients")


def combine(updates: Sequence[TypeUpdate], server: ServerRound) -> Combined:
    """Return what turns each prototype into the mean over the clients that have its class; none has it: unchanged."""
    means_P, share_C = weighted_mean(updates, _MEANS), weighted_mean(updates, _HOLDERS)
    before_CP, seen_C = server.values[_MEANS].double(), server.values[_HOLDERS].double()
    has_C = share_C > 0.0
    now_CP = means_P.view_as(before_CP) / share_C.where(has_C, 1.0).unsqueeze(1)
    change_CP = torch.where(has_C.unsqueeze(1), now_CP - before_CP, 0.0)
    return Combined({_MEANS: change_CP.flatten(), _HOLDERS: torch.where(has_C, 1.0 - seen_C, 0.0)})


class _ClassFeatures:
    """What a chunk's clients see of their classes in a round. Legend: K clients, R rows, C classes, P feature width."""

    def __init__(self, weight: float) -> None:
        self._weight = weight
        self._sum_KCP: Tensor | None = None
        self._count_KC: Tensor | None = None

    def objective(self, backbone: Backbone, bank: Bank, batch: ChunkBatch) -> Tensor:
        """Return the mean loss per token, and the mean squared distance of features to known prototypes."""
        final: list[Tensor] = []
        losses_RT = token_losses(backbone, bank, batch, look=final.append)
        losses_K = mean_by_client(losses_RT, batch)
        if batch.labels_R is None:  # a pass that counts for nothing
            return losses_K
        feature_KBP, class_KBC = _features(final[0], bank, batch)
        self._remember(feature_KBP.detach(), class_KBC)
        known_KBC = class_KBC * bank[SEEN].unsqueeze(1)
        distance_KB = (feature_KBP - class_KBC @ bank[PROTOTYPES]).square().mean(dim=2)
        is_known_KB = known_KBC.sum(dim=2)
        return losses_K + self._weight * (distance_KB * is_known_KB).sum(dim=1) / is_known_KB.sum(dim=1).clamp(min=1)

    def finish(self, bank: Bank, rate_sum_K1: Tensor) -> None:
        """Write the mean feature of each class that a client has, and 1 for having it, as differences to the start."""
        if self._sum_KCP is None:
            return
        has_KC = (self._count_KC > 0).float()
        mean_KCP = self._sum_KCP / self._count_KC.clamp(min=1).unsqueeze(2)
        for name, sent_KC in ((PROTOTYPES, mean_KCP), (SEEN, has_KC)):
            columns = bank.layout.columns[name]
            bank.values_KP[:, columns] = bank.start_KP[:, columns] + sent_KC.flatten(1)

    def _remember(self, feature_KBP: Tensor, class_KBC: Tensor) -> None:
        sum_KCP, count_KC = class_KBC.transpose(1, 2) @ feature_KBP, class_KBC.sum(dim=1)
        self._sum_KCP = sum_KCP if self._sum_KCP is None else self._sum_KCP + sum_KCP
        self._count_KC = count_KC if self._count_KC is None else self._count_KC + count_KC


def _features(final_RTD: Tensor, bank: Bank, batch: ChunkBatch) -> tuple[Tensor, Tensor]:
    """Return each row's feature where its answer begins (K, B, P), and its class as 0 and 1 (K, B, C)."""
    counts_RT = batch.targets_RT != IGNORED
    begins_R = counts_RT.int().argmax(dim=1)
    hidden_RD = final_RTD[torch.arange(len(begins_R), device=begins_R.device), begins_R].float()
    projection_KPD = bank[PROJECTION] + bank[OWN_PROJECTION]
    feature_KBP = hidden_RD.view(bank.num_clients, -1, hidden_RD.shape[1]) @ projection_KPD.transpose(1, 2)
    labels_R = batch.labels_R.where(counts_RT.any(dim=1), -1)
    num_classes = bank[SEEN].shape[1]
    class_RC = (labels_R.unsqueeze(1) == torch.arange(num_classes, device=labels_R.device)).float()
    return feature_KBP, class_RC.view(bank.num_clients, -1, num_classes)
