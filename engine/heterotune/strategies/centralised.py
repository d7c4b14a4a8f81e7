"""Training in one place: for each model type one client that holds the rows of all its clients. No federation.

The upper bound of what a federation can learn. In every round it sees as many rows as the cohort's clients would have
seen together: their steps are made one after the other, with `local.batch_size` rows drawn from all the type's rows.
The optimiser starts afresh each round, as clients' do. Nothing is sent: the ledger stays empty, and only
`traffic.jsonl` knows what the ranks moved. Held-out rows are those of the federation.
"""

from __future__ import annotations

from functools import partial

from heterotune.adapters.tables import adapter_layout
from heterotune.config.schema import RunConfig
from heterotune.strategies.strategy import Strategy


def make(config: RunConfig) -> Strategy:
    """Return one LoRA branch of scope "type", trained by one client with everybody's rows."""
    return Strategy("centralised", partial(adapter_layout, "centralised", config), pools_clients=True)
