"""The weights of a `random:` model, drawn block by block: the bits that transformers would draw for the whole model."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from heterotune.backbone.architecture import blocks
from heterotune.backbone.heap import trim_heap


class RandomWeights:
    """Draws a model's blocks in their order, on the CPU, without touching torch's own random state.

    transformers makes `LlamaModel` with the values that torch gives to new modules, then draws those that count over
    them, and only then makes and draws the head. The first draws decide where the generator is, so they are made too.
    """

    def __init__(self, lm: PreTrainedModel, seed: int) -> None:
        """Stand where the first block is drawn.

        Args:
            lm: From `lm_on_meta`.
            seed: Of the weights.
        """
        self._lm, self._dtype = lm, lm.dtype
        self._state = torch.Generator().manual_seed(seed).get_state()
        for name, block in blocks(lm).items():
            if name != "lm_head":
                self._draw(block, new=True, counts=False)
                trim_heap()

    def fill(self, name: str, block: nn.Module) -> None:
        """Give a block its memory and its weights; call it for all blocks in their order."""
        self._draw(block, new=name == "lm_head", counts=True)

    def _draw(self, block: nn.Module, *, new: bool, counts: bool) -> None:
        block.float().to_empty(device="cpu")  # drawn in float32, whatever they become
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.set_rng_state(self._state)
            for module in block.modules():
                if new and hasattr(module, "reset_parameters"):
                    module.reset_parameters()
            for module in block.modules():
                if counts:
                    self._lm._init_weights(module)
            self._state = torch.get_rng_state()
        block.to(self._dtype if counts else "meta")
