"""A frozen LLaMA whose head is its loss: one forward pass from token ids to the loss of every token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from heterotune.backbone.head_loss import HeadLoss, OwnHeads
from heterotune.data.tokenizing import IGNORED


@dataclass(frozen=True)
class EarlyExits:
    """Where a model answers beside its end, through its own final norm and head.

    Attributes:
        after: Numbers of layers, rising; none is the last.
        distillation: Weight with which the answers learn from one another, at least 0.
    """

    after: tuple[int, ...]
    distillation: float


class FrozenLM(nn.Module):
    """The root module that ZeRO-3 shards: `llama` (embedding and layers) and `head` (output embedding and loss)."""

    def __init__(self, lm: PreTrainedModel) -> None:
        super().__init__()
        self.llama = lm.model
        self.head = HeadLoss(lm.lm_head.weight)

    def forward(
        self,
        input_ids_RT: Tensor,
        targets_RT: Tensor | None,
        head_features: Callable[[Tensor], Tensor | None] | None = None,
        basis_QV: Tensor | None = None,
        head_difference_KVD: Tensor | None = None,
        *,
        early: EarlyExits | None = None,
        whole_vocabulary: bool = False,
    ) -> Tensor:
        """Run R rows of T tokens.

        Rows are padded on the right. No attention mask is needed: a causal model's real tokens never see what follows.

        Args:
            input_ids_RT: int64 tokens.
            targets_RT: The token after each, `IGNORED` where it does not count; None to get final hidden states.
            head_features: Turns final hidden states (R, T, D) into the head branch's features (R, T, Q).
            basis_QV: The head branch's vocabulary basis.
            head_difference_KVD: What each of K clients adds to the output embedding; rows are theirs in equal parts.
            early: Answers before the last layer, which join the loss; without head branch and difference only.
            whole_vocabulary: Return what every token's log-probability is at the few places that count.

        Returns:
            Loss of each token in nats, float32 (R, T), zero where ignored; or final hidden states (R, T, D); or
            log-probabilities, float32 (places that count, V), row after row.
        """
        is_early = early is not None and bool(early.after)
        seen = self.llama(input_ids=input_ids_RT, use_cache=False, output_hidden_states=is_early)
        hidden_RTD = seen.last_hidden_state
        if targets_RT is None:
            return hidden_RTD
        counts_RT = targets_RT != IGNORED
        losses_RT = torch.zeros(targets_RT.shape, dtype=torch.float32, device=hidden_RTD.device)
        if is_early:
            answers = [self.llama.norm(seen.hidden_states[layer + 1][counts_RT]) for layer in early.after]
            losses_N = self.head(
                torch.stack([*answers, hidden_RTD[counts_RT]]),
                targets_RT[counts_RT],
                distillation=early.distillation,
            )
            return losses_RT.masked_scatter(counts_RT, losses_N)
        features_RTQ = head_features(hidden_RTD) if head_features is not None else None
        own = None
        if head_difference_KVD is not None:
            own = OwnHeads(head_difference_KVD, counts_RT.view(len(head_difference_KVD), -1).sum(dim=1).tolist())
        losses_N = self.head(
            hidden_RTD[counts_RT],
            None if whole_vocabulary else targets_RT[counts_RT],
            None if features_RTQ is None else features_RTQ[counts_RT],
            basis_QV,
            own,
        )
        if whole_vocabulary:
            return losses_N
        return losses_RT.masked_scatter(counts_RT, losses_N)
