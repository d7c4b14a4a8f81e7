"""FedRolex on LoRA: siblings train windows of common components that roll on by one every round.

In round t a type of rank r holds components (t - 1 + j) mod r_max, j = 0 .. r - 1, of the LoRA of the largest rank
r_max among its siblings, all with one scale, alpha / r_max: in r_max rounds every component is held by every type. An
element that no client of the round covers stays as it is. Evaluated and saved is what a type holds in the round to
come.

Bytes: up and down as `fedavg_lora`: a client sends its window of the round, and gets it before.

Source: FedRolex (NeurIPS 2022), carried over to the components of adapters by us.
"""

from __future__ import annotations

from functools import partial

from heterotune.adapters.tables import adapter_layout
from heterotune.config.schema import RunConfig
from heterotune.strategies.strategy import Strategy
from heterotune.strategies.windowed import combine_covered


def make(config: RunConfig) -> Strategy:
    """Return rolling parts of common LoRA tensors, averaged where they are covered."""
    return Strategy("fedrolex", partial(adapter_layout, "fedrolex", config), combine_covered)
