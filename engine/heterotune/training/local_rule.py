"""What a federated method changes of its clients' local training, for all clients of a chunk at once.

A rule works on a bank, whose leading axis is the chunk's clients, and so never on one client alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from heterotune.adapters.bank import Bank
from heterotune.backbone.load import Backbone
from heterotune.training.objective import ChunkBatch, client_losses

Objective = Callable[[Backbone, Bank, ChunkBatch], Tensor]
"""Each client's loss on its rows, shape (K,), differentiable in the bank's tensors. It is called by ranks without work
too, on a batch that counts for nothing, and must run the same modules of the backbone then."""

LossTerm = Callable[[Bank, Tensor], Tensor]
"""What is added to each client's loss: (bank, values at the start of the round (K, P)) -> (K,). It must be written in
the bank's tensors, `bank[name]`, to be differentiable."""

AfterStep = Callable[[Bank, Tensor], None]
"""Changes the bank's values after a local step: (bank, learning rates of the step (K, 1)); the rate of a client that
has made all its steps is 0."""

Finish = Callable[[Bank, Tensor], None]
"""Changes the bank's values after the last step: (bank, each client's learning rates added up (K, 1)). What it writes
into tensors that travel is sent as the difference to `bank.start_KP`; into "client" tensors, kept by the client."""


@dataclass(frozen=True)
class LocalRule:
    """FedAvg's local training where nothing else is said: minimise the mean loss per token, send the difference."""

    objective: Objective = client_losses
    loss_term: LossTerm | None = None
    after_step: AfterStep | None = None
    finish: Finish | None = None


PLAIN = LocalRule()
