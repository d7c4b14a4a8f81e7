"""All that a run measures on its held-out rows, for every model type: which probes there are, and what they add up to.

Every sum is over rows in the order of the held-out set, whichever rank scored them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from heterotune.adapters.attach import AttachedAdapter
from heterotune.adapters.bank import Bank
from heterotune.backbone.load import Backbone
from heterotune.config.record_options import EvaluateConfig
from heterotune.data.clients_data import FederatedData
from heterotune.data.questions import Questions
from heterotune.data.tokenizing import IGNORED, Rows
from heterotune.evaluation.answers import LABELS, PAIRS, label_score, likelihoods, right_answers, score_pairs
from heterotune.evaluation.exact_match import MATCHES, match_score
from heterotune.evaluation.measures import ACCURACY, EVAL, EXACT_MATCH, LOSS, PERSONAL, Measure
from heterotune.evaluation.passes import NO_ROW, common_passes, personal_passes
from heterotune.evaluation.probes import PassScore, Probe, Score, run_probe, score_losses
from heterotune.fleet.clients import ClientIds
from heterotune.fleet.placement import Seat
from heterotune.training.objective import ChunkBatch


class HeldoutEvaluation:
    """A run's held-out rows and questions, cut into passes once. The same on every rank."""

    def __init__(
        self,
        data: FederatedData,
        questions: Questions,
        options: EvaluateConfig,
        clients_of_type: Sequence[ClientIds],
        device: torch.device,
    ) -> None:
        """Cut rows into passes.

        Args:
            data: Held-out rows and whose they are.
            questions: What their documents ask.
            options: Section `evaluate`.
            clients_of_type: The clients of each model type.
            device: Where the backbones run.
        """
        self._data, self._questions, self._options = data, questions, options
        self._device = device
        self._owners_of_type = [_owners(data, client_ids) for client_ids in clients_of_type]
        self.common = [
            Probe(name, common_passes(rows, options.batch_size, device), score)
            for name, rows, _, score in self._tables()
            if len(rows)
        ]
        if questions.prompts is not None:
            passes = common_passes(questions.prompts.rows, options.batch_size, device)
            self.common.append(Probe(MATCHES, passes, match_score(questions.prompts, options.max_new_tokens)))
        self._personal: dict[int, list[Probe]] = {}

    @property
    def batches(self) -> list[ChunkBatch]:
        """All batches that are kept for every model type."""
        return [row_pass.batch for probe in self.common for row_pass in probe.passes]

    def score(
        self,
        backbone: Backbone,
        attached: AttachedAdapter,
        bank: Bank,
        seat: Seat,
        own_bank: Callable[[Sequence[int]], Bank] | None = None,
        max_clients: int = 1,
    ) -> list[PassScore]:
        """Make this rank's share of a model type's passes. Every rank that holds it must call this.

        Args:
            backbone: The model type's backbone.
            attached: The strategy's adapters on it.
            bank: The global adapter, as the bank of one client.
            seat: Which share is this rank's.
            own_bank: Makes the bank of clients with each its own adapter; None = only the global one counts.
            max_clients: Most clients in a pass with own adapters; always the same for a model type.
        """
        probes = self.common
        if own_bank is not None:
            probes = [*probes, *self.personal_probes(backbone.model_type.index, max_clients)]
        run = [run_probe(probe, backbone, attached, bank, own_bank, seat) for probe in probes]
        return [score for scores in run for score in scores]

    def measures(self, place: int, scores: Sequence[PassScore]) -> list[Measure]:
        """Return what a model type's scores add up to.

        Args:
            place: The model type.
            scores: All of all types, as gathered; those of a probe in the order of its passes.
        """
        mine: dict[str, list[PassScore]] = {}
        for score in scores:
            if score.model_type == place:
                mine.setdefault(score.probe, []).append(score)
        found = [replace(self._loss(place, EVAL, self.common, mine), value=_mean_loss(self.common[0], mine[LOSS]))]
        if self._questions.choices is not None:
            found.append(self._accuracy(place, EVAL, self.common, mine))
        if MATCHES in mine:
            found.append(self._exact_match(place, mine[MATCHES]))
        personal = self._personal.get(place)
        if personal and personal[0].name in mine:
            found.append(self._loss(place, PERSONAL, personal, mine))
            if len(personal) > 1:
                found.append(self._accuracy(place, PERSONAL, personal, mine))
        return found

    def _tables(self) -> list[tuple[str, Rows, np.ndarray, Score]]:
        """Return the rows that every adapter is tried on, by name: with the client of each, and how they score."""
        data, choices = self._data, self._questions.choices
        tables = [(LOSS, data.heldout, data.heldout_clients, score_losses)]
        if choices is not None:
            labels = choices.owners(choices.label_questions, data.heldout_clients)
            pairs = choices.owners(choices.pair_questions, data.heldout_clients)
            tables.append((LABELS, choices.label_rows, labels, label_score(choices)))
            tables.append((PAIRS, choices.pair_rows, pairs, score_pairs))
        return tables

    def personal_probes(self, place: int, max_clients: int) -> list[Probe]:
        """Return a model type's passes with clients' own adapters. `measures` needs that this was called before."""
        if place not in self._personal:
            sizes = {"batch_size": self._options.batch_size, "max_clients": max_clients, "device": self._device}
            made = [
                Probe(f"{PERSONAL}/{name}", personal_passes(rows, owners, self._owners_of_type[place], **sizes), score)
                for name, rows, owners, score in self._tables()
            ]
            self._personal[place] = [probe for probe in made if probe.passes]
        return self._personal[place]

    def _loss(self, place: int, by: str, probes: Sequence[Probe], scores: Mapping[str, Sequence[PassScore]]) -> Measure:
        """Return the loss per token of all rows that a probe reads, and of each of the type's clients."""
        sums_N = np.zeros(len(self._data.heldout))
        tokens_N = (self._data.heldout.targets != IGNORED).sum(axis=1)
        is_read_N = np.zeros(len(sums_N), dtype=bool)
        probe = probes[0]
        for row_pass, score in zip(probe.passes, scores[probe.name], strict=True):
            for row, value in zip(row_pass.rows, score.values[-len(row_pass.rows) :], strict=True):
                if row != NO_ROW:
                    sums_N[row], is_read_N[row] = value, True
        of_client = {
            client: float(sums_N[rows].sum() / tokens_N[rows].sum())
            for client, rows in self._rows_of(place)
            if tokens_N[rows].sum()
        }
        return Measure(LOSS, by, float(sums_N[is_read_N].sum() / tokens_N[is_read_N].sum()), of_client)

    def _accuracy(
        self, place: int, by: str, probes: Sequence[Probe], scores: Mapping[str, Sequence[PassScore]]
    ) -> Measure:
        choices = self._questions.choices
        asked = [(probe, scores[probe.name]) for probe in probes if probe.name.endswith((LABELS, PAIRS))]
        likelihood_P = likelihoods(choices, asked)
        right = right_answers(choices, likelihood_P, self._options.choice_score)
        if by == PERSONAL:
            own = set(self._owners_of_type[place])
            right = {row: is_right for row, is_right in right.items() if int(self._data.heldout_clients[row]) in own}
        return self._share(place, ACCURACY, by, right)

    def _exact_match(self, place: int, scores: Sequence[PassScore]) -> Measure:
        prompts = self._questions.prompts
        probe = self.common[-1]
        found = {
            int(prompts.heldout_Q[row]): bool(value)
            for row_pass, score in zip(probe.passes, scores, strict=True)
            for row, value in zip(row_pass.rows, score.values, strict=True)
        }
        return self._share(place, EXACT_MATCH, EVAL, found)

    def _share(self, place: int, name: str, by: str, right: Mapping[int, bool]) -> Measure:
        """Return the share of questions that were answered right, of all and of each of the type's clients."""
        of_client = {
            client: sum(right[row] for row in asked) / len(asked)
            for client, rows in self._rows_of(place)
            if (asked := [row for row in rows.tolist() if row in right])
        }
        of_label = self._of_label(right) if by == EVAL and self._options.by_label else {}
        return Measure(name, by, sum(right.values()) / len(right), of_client, of_label)

    def _of_label(self, right: Mapping[int, bool]) -> dict[str, float]:
        """Return the share of right answers among the questions of each class."""
        by_label: dict[str, list[bool]] = defaultdict(list)
        for row, is_right in right.items():
            label = self._data.heldout_documents[row].label
            if label is not None:
                by_label[label].append(is_right)
        return {label: sum(answers) / len(answers) for label, answers in by_label.items()}

    def _rows_of(self, place: int) -> list[tuple[int, np.ndarray]]:
        """Return the type's clients that have held-out rows, with these rows."""
        owners = self._data.heldout_clients
        return [(client, np.flatnonzero(owners == client)) for client in self._owners_of_type[place]]


def heldout_of_types(
    data_of_type: Sequence[FederatedData],
    questions_of_type: Sequence[Questions],
    options: EvaluateConfig,
    clients_of_type: Sequence[ClientIds],
    device: torch.device,
) -> list[HeldoutEvaluation]:
    """Return what is measured for each model type; types that see the same data have it in common.

    Args:
        data_of_type: Held-out rows in each model type's tokens.
        questions_of_type: What their documents ask, in the same tokens.
        options: As for `HeldoutEvaluation`; so are the clients and the device.
        clients_of_type: The clients of each model type.
        device: Where the backbones run.
    """
    made: dict[int, HeldoutEvaluation] = {}
    for data, questions in zip(data_of_type, questions_of_type, strict=True):
        if id(data) not in made:
            made[id(data)] = HeldoutEvaluation(data, questions, options, clients_of_type, device)
    return [made[id(data)] for data in data_of_type]


def _owners(data: FederatedData, client_ids: ClientIds) -> list[int]:
    """Return which of some clients have held-out rows, in client order; of a million clients few do."""
    owners = np.unique(data.heldout_clients)
    ids = np.arange(client_ids.start, client_ids.stop) if isinstance(client_ids, range) else np.asarray(client_ids)
    return owners[np.isin(owners, ids)].tolist()


def _mean_loss(probe: Probe, scores: Sequence[PassScore]) -> float:
    """Return the loss per token over passes, in nats, added in their order."""
    tokens = [int(row_pass.batch.num_targets_K.item()) for row_pass in probe.passes]
    return sum(score.values[0] * count for score, count in zip(scores, tokens, strict=True)) / sum(tokens)
