"""How well a fleet's adapters do: every model type's common one, and clients' own ones where these count."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial

from heterotune.adapters.attach import AttachedAdapter
from heterotune.adapters.bank import HeadFrame
from heterotune.chunk_training import ChunkTraining
from heterotune.evaluation.heldout import HeldoutEvaluation
from heterotune.evaluation.measures import Measure, mean_of_clients
from heterotune.evaluation.probes import PassScore, gather_scores
from heterotune.federation import Federation


class FleetScores:
    """Scores a strategy's adapters on the held-out rows. Every rank makes one and calls the same methods."""

    def __init__(
        self,
        federation: Federation,
        attached: Mapping[int, AttachedAdapter],
        training: ChunkTraining,
        heldout: Sequence[HeldoutEvaluation],
        *,
        is_personal: bool,
    ) -> None:
        """Hold on to what is scored.

        Args:
            federation: Backbones, clients and channel.
            attached: Place of a model type -> its adapters on its backbone, where this rank holds it.
            training: Makes adapters.
            heldout: What each model type is asked.
            is_personal: Whether clients' own models are others than the common ones.
        """
        self._federation, self._attached, self._training, self._heldout = federation, attached, training, heldout
        self._is_personal = is_personal

    def measure(
        self, frames: Sequence[HeadFrame | None], most_clients: Mapping[int, int]
    ) -> dict[str, list[Measure]] | None:
        """Return what was measured by name of the model type, at the root; None elsewhere. Every rank must call this.

        Args:
            frames: The head's maps, by place of the model type.
            most_clients: Clients' own adapters that are scored in one pass, by place.
        """
        scores: list[PassScore] = []
        for place, heldout in enumerate(self._heldout):
            if self._is_personal:
                heldout.personal_probes(place, most_clients[place])  # the root adds up also what others score
            if place in self._federation.backbones:
                scores += self._common_and_own(place, frames[place], most_clients[place])
        gathered = gather_scores(scores, self._federation.channel)
        config = self._federation.config.evaluate
        own = self._own_on_all_rows() if config.own_adapters == "all_rows" else {}
        if gathered is None:
            return None
        return {
            m.name: self._heldout[m.index].measures(m.index, gathered) + own.get(m.index, [])
            for m in self._federation.model_types
        }

    def _common_and_own(self, place: int, frame: HeadFrame | None, most_clients: int) -> list[PassScore]:
        """Return this rank's scores of a model type: its common adapter, and clients' own on their own rows."""
        bank = self._training.global_bank(place, frame)
        own_bank = partial(self._training.personal_bank, place) if self._is_personal else None
        return self._score(place, bank, own_bank, most_clients)

    def _own_on_all_rows(self) -> dict[int, list[Measure]]:
        """Return by model type what its clients' own adapters reach on the fleet's rows; nothing but at the root."""
        found: dict[int, dict[int, list[Measure]]] = defaultdict(dict)
        for place, heldout in enumerate(self._heldout if self._is_personal else ()):
            for client_id in self._federation.population.ids_of(place):
                scores: list[PassScore] = []
                if place in self._federation.backbones:
                    scores = self._score(place, self._training.personal_bank(place, [client_id]))
                gathered = gather_scores(scores, self._federation.channel)
                if gathered is not None:
                    found[place][client_id] = heldout.measures(place, gathered)
        return {place: mean_of_clients(by_client) for place, by_client in found.items()}

    def _score(self, place: int, *what: object) -> list[PassScore]:
        """Return this rank's share of a model type's scores."""
        federation = self._federation
        seat = federation.placement.seat(federation.channel.mpi_rank, place)
        bank, *own = what
        return self._heldout[place].score(federation.backbones[place], self._attached[place], bank, seat, *own)
