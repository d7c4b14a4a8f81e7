"""Exact match: the model writes the response itself, always its likeliest token, and the text is the same or not.

A plain loop without a cache of keys and values: every token is a pass over all that was written so far. That keeps the
ranks that share a backbone in lock step, and costs little beside the passes over sharded weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from heterotune.adapters.bank import Bank
from heterotune.backbone.load import Backbone
from heterotune.data.questions import Prompts, end_ids
from heterotune.data.tokenizing import IGNORED
from heterotune.evaluation.passes import RowPass
from heterotune.evaluation.probes import Score
from heterotune.training.objective import ChunkBatch, log_probabilities

MATCHES = "matches"


def match_score(prompts: Prompts, max_new_tokens: int) -> Score:
    """Return what scores prompts: 1.0 for each whose continuation is its response, but for space around it."""

    ends = sorted(end_ids(prompts.tokenizer))

    def score(backbone: Backbone, bank: Bank, batch: ChunkBatch, row_pass: RowPass | None) -> list[float]:
        written = write_on(
            backbone,
            bank,
            batch,
            ends=ends,
            max_new_tokens=max_new_tokens,
            is_idle=row_pass is None,
        )
        rows = () if row_pass is None else row_pass.rows
        return [float(_is_same(prompts, row, tokens)) for row, tokens in zip(rows, written, strict=False)]

    return score


@torch.no_grad()
def write_on(
    backbone: Backbone,
    bank: Bank,
    batch: ChunkBatch,
    *,
    ends: Sequence[int],
    max_new_tokens: int,
    is_idle: bool = False,
) -> list[list[int]]:
    """Let the model go on with every row, greedily; what ends a row is left out.

    With a backbone in lock step the ranks of its group must all call this, and make as many passes as the one whose
    rows go on longest.

    Args:
        backbone: The frozen model.
        bank: Whose adapter; in use.
        batch: Rows with one target each, at the place of the first new token.
        ends: Tokens that end a row: the end of text, or of a turn.
        max_new_tokens: Passes, at most.
        is_idle: The rows count for nothing, and one pass is as good as another.
    """
    ids, targets = _with_room(batch, 0 if is_idle else max_new_tokens)
    at_R = (batch.targets_RT != IGNORED).int().argmax(dim=1)
    rows = torch.arange(len(ids), device=ids.device)
    goes_on = torch.full((len(ids),), not is_idle, device=ids.device)
    end_tokens = torch.tensor(ends, device=ids.device)
    written: list[list[int]] = [[] for _ in range(len(ids))]
    for step in range(max_new_tokens):
        if not backbone.any_rank(bool(goes_on.any())):
            break
        if is_idle:
            log_probabilities(backbone, bank, batch)
            continue
        targets.fill_(IGNORED)
        targets[rows, at_R + step] = 0
        width = batch.input_ids_RT.shape[1] + step
        next_R = log_probabilities(backbone, bank, _batch(ids[:, :width], targets[:, :width])).argmax(dim=1)
        goes_on &= ~torch.isin(next_R, end_tokens)
        ids[rows, at_R + step + 1] = next_R
        for row in goes_on.nonzero().flatten().tolist():
            written[row].append(int(next_R[row]))
    return written


def _with_room(batch: ChunkBatch, num_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch's rows with room behind them for new tokens, and targets of that shape."""
    num_rows, width = batch.input_ids_RT.shape
    ids = batch.input_ids_RT.new_zeros(num_rows, width + num_tokens)
    ids[:, :width] = batch.input_ids_RT
    return ids, torch.full_like(ids, IGNORED)


def _batch(ids: torch.Tensor, targets: torch.Tensor) -> ChunkBatch:
    return ChunkBatch(ids, targets, ids.new_tensor([len(ids)]))


def _is_same(prompts: Prompts, row: int, tokens: Sequence[int]) -> bool:
    return prompts.tokenizer.decode(tokens).strip() == prompts.responses[row].strip()
