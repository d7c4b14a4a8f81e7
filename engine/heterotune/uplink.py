"""The way up: every client's update becomes messages, the ledger counts them, what arrives is added up exactly.

Legend: K clients, P elements that a client sends, G of them in a group, C columns of a client: P and its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from heterotune.adapters.layout import AdapterLayout
from heterotune.aggregation.exact import ExactSum
from heterotune.client_store import ClientStore
from heterotune.collective.codecs import codec_named
from heterotune.collective.ledger import Ledger
from heterotune.collective.wire import decode, encode
from heterotune.config.schema import CollectiveConfig
from heterotune.randomness import generator
from heterotune.training.local import TrainedChunk


def send_updates(
    result: TrainedChunk,
    layout: AdapterLayout,
    exact: ExactSum,
    ledger: Ledger,
    *,
    round_number: int,
    num_rows_of_type: int,
    wire: CollectiveConfig,
    run_seed: int,
    store: ClientStore,
) -> None:
    """Send the updates of a chunk's clients and add what arrives to their model type's sum.

    Under a codec with error feedback a client sends its update and what it still owes from earlier rounds, and keeps
    what did not arrive.

    Args:
        result: The trained chunk.
        layout: Its model type's adapter.
        exact: This rank's sum for the model type; clients are added with weight n_k / N_m.
        ledger: Gets one entry a client and tensor group.
        round_number: The round.
        num_rows_of_type: N_m, the rows of the whole cohort's clients of this type, on all ranks.
        wire: The codec up and its options.
        run_seed: For codecs that round at random.
        store: Keeps what clients owe.

    Raises:
        AggregationError: If an update is not finite or too large; names the client.
    """
    clients, ids = result.chunk.clients, [client.client_id for client in result.chunk.clients]
    arrived_KP = torch.empty(len(clients), layout.num_travelling)
    owed_KP = None
    if codec_named(wire.wire).keeps_residual:
        owed_KP = torch.stack([store.load_residual(client_id, layout.num_travelling) for client_id in ids])
    for place, client_id in enumerate(ids):
        for group, meant_G, columns in _messages(layout, result.update_KP[place], owed_KP, place):
            draw = generator(run_seed, round_number, client_id, f"wire/{group}")
            message = encode(meant_G.numpy(), wire.wire, draw, topk_share=wire.topk_share)
            ledger.add(
                round_number=round_number,
                client_id=client_id,
                model_type=layout.model_type,
                direction="up",
                group=group,
                num_bytes=len(message),
            )
            arrived_KP[place, columns] = torch.from_numpy(decode(message, len(meant_G)))
            if owed_KP is not None:
                owed_KP[place, columns] = meant_G - arrived_KP[place, columns]
    weights_K = torch.tensor([client.num_rows / num_rows_of_type for client in clients], dtype=torch.float64)
    exact.add(arrived_KP, weights_K, ids)
    if owed_KP is not None:
        for client_id, owed_P in zip(ids, owed_KP, strict=True):
            store.save_residual(client_id, owed_P.clone())


def _messages(
    layout: AdapterLayout, update_C: Tensor, owed_KP: Tensor | None, place: int
) -> Iterator[tuple[str, Tensor, slice]]:
    """Go through a client's tensor groups: name, what it means to send, and where that is among what travels."""
    start = 0
    for group, columns in layout.group_columns.items():
        end = start + columns.stop - columns.start
        meant_G = update_C[columns] if owed_KP is None else update_C[columns] + owed_KP[place, start:end]
        yield group, meant_G, slice(start, end)
        start = end
