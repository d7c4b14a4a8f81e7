"""Every client trains LoRA of its own and keeps it: the lower bound, and what a federation must beat.

Nothing travels, so the ledger stays empty and the common values are what they were before round 1.
"""

from __future__ import annotations

from functools import partial

from heterotune.adapters.tables import adapter_layout
from heterotune.config.schema import RunConfig
from heterotune.strategies.strategy import Strategy


def make(config: RunConfig) -> Strategy:
    """Return one LoRA branch of scope "client"."""
    return Strategy("local_only", partial(adapter_layout, "local_only", config))
