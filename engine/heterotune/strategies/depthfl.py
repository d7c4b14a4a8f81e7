"""DepthFL on LoRA: siblings share layer by layer; a deep model also answers where its shallower siblings end.

Source: Kim et al. (ICLR 2023). Our mapping to adapters: layers of siblings meet by their number in the LLaMA that all
were cut from; an exit is the frozen final norm and head behind as many layers as a shallower sibling has; each answer
learns from the others, with a weight that ramps up. Differs: no FedDyn term; the last exit alone answers in the end,
not the ensemble.

A client sends and gets Σ r (d_in + d_out) over its layers' targets, as in FedAvg on LoRA.
"""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from heterotune.adapters.bank import Bank
from heterotune.adapters.layout import AdapterLayout
from heterotune.adapters.tables import adapter_layout
from heterotune.backbone.frozen_lm import EarlyExits
from heterotune.backbone.load import Backbone
from heterotune.config.heterogeneous_options import DepthflOptions
from heterotune.config.schema import RunConfig
from heterotune.strategies.strategy import Strategy
from heterotune.training.local_rule import LocalRule
from heterotune.training.objective import ChunkBatch, mean_by_client


def make(config: RunConfig) -> Strategy:
    """Return LoRA shared by layer, with exits in local training; updates combine as in FedAvg."""

    def local_rule(layout: AdapterLayout, round_number: int) -> LocalRule:
        early = EarlyExits(layout.exits, distillation_weight(config.depthfl, round_number))

        def objective(backbone: Backbone, bank: Bank, batch: ChunkBatch) -> Tensor:
            losses_RT = backbone.lm(batch.input_ids_RT, batch.targets_RT, early=early)
            return mean_by_client(losses_RT, batch)

        return LocalRule(objective)

    return Strategy("depthfl", partial(adapter_layout, "depthfl", config), local_rule=local_rule)


def distillation_weight(options: DepthflOptions, round_number: int) -> float:
    """Return w_t = w exp(-5 (1 - min(t, ramp) / ramp)^2)."""
    done = min(round_number, options.ramp_rounds) / options.ramp_rounds
    return options.distillation * math.exp(-5.0 * (1.0 - done) ** 2)
