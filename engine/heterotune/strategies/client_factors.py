"""What the clients of a round hold at each site after training, for methods that combine LoRA's products.

Legend: K clients, r adapter rank, O output width, I input width, P elements of a model type's tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from heterotune.adapters.layout import Branch, TensorSpec
from heterotune.strategies.strategy import ClientUpdates, ServerRound, TypeUpdate


@dataclass(frozen=True)
class SiteClients:
    """The clients of one model type at one site, in client order. Tensors are made when they are asked for.

    Attributes:
        update: The model type's round.
        server: What clients trained from.
        branch: The branch there.
        up: The spec of U.
        down: The spec of V.
    """

    update: TypeUpdate
    server: ServerRound
    branch: Branch
    up: TensorSpec
    down: TensorSpec

    @property
    def model_type(self) -> str:
        """Its name."""
        return self.update.model_type

    @property
    def up_KOr(self) -> Tensor:
        """U of each client after training, float64."""
        return self._after(self.up)

    @property
    def down_KrI(self) -> Tensor:
        """V of each client after training, float64."""
        return self._after(self.down)

    @property
    def share_K(self) -> Tensor:
        """p_k within the model type, float64."""
        return self._clients.share_K

    @property
    def weight_K(self) -> Tensor:
        """What each weighs among all clients of the fleet: its rows, float64."""
        return self.share_K * self.update.weight

    @property
    def _clients(self) -> ClientUpdates:
        assert self.update.clients is not None, "a method that combines products needs single updates"
        return self.update.clients

    def change_KP(self, spec: TensorSpec) -> Tensor:
        """Return what each client sent of U or V, float64."""
        columns = self.server.layouts[self.model_type].travelling_columns[spec.name]
        return self._clients.update_KP[:, columns].double()

    def _after(self, spec: TensorSpec) -> Tensor:
        return held_value(self.server, spec) + self.change_KP(spec).unflatten(1, spec.shape)


def places_in_common(spec: TensorSpec, round_number: int) -> Tensor:
    """Return where a model type's elements are in the flat common tensor in a round, int64, shape (P,)."""
    if spec.window is None:
        return torch.arange(spec.num_elements)
    return torch.from_numpy(spec.window.places(spec.shape, round_number))


def held_value(server: ServerRound, spec: TensorSpec) -> Tensor:
    """Return what a model type's clients trained from in the round, float64, of the spec's shape."""
    value = server.values[spec.key].double()
    return (
        value if spec.window is None else value.view(-1)[places_in_common(spec, server.round_number)].view(spec.shape)
    )


def clients_at_sites(update: TypeUpdate, server: ServerRound) -> Iterator[SiteClients]:
    """Go through the sites of a model type, in the layout's order."""
    layout = server.layouts[update.model_type]
    specs = {spec.name: spec for spec in layout.tensors}
    for branch in layout.branches:
        yield SiteClients(update, server, branch, specs[branch.up], specs[branch.down])
