"""Logit adjustment: what a client adds to the logits of label words in training, because some labels are rare with it.

Source: Menon et al., "Long-tail learning via logit adjustment" (ICLR 2021), the loss with tau = 1; each client's own
prior as in FedLC (Zhang et al., ICML 2022), smoothed. A model that is trained with log prior added learns the rest, and
answers without it as if all labels were equally frequent. Differs: the softmax is over the whole vocabulary, so priors
are taken relative to equal ones, and a client with balanced labels trains as if nothing was added.

Legend: C labels, K clients, R rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from heterotune.data.tokenizing import IGNORED, Rows


@dataclass(frozen=True)
class LabelPriors:
    """How clients' labels are told from rows.

    Attributes:
        first_token_C: The first token of each label's response, int64; -1 if no client has the label.
        vocab_size: V.
        smoothing: Share of the prior that is spread equally over all labels, above 0 and at most 1.
    """

    first_token_C: np.ndarray
    vocab_size: int
    smoothing: float

    @classmethod
    def of_rows(cls, rows_of: Sequence[Rows], num_labels: int, vocab_size: int, smoothing: float) -> LabelPriors:
        """Look for each label's first token in the rows of all clients."""
        first_token_C = np.full(num_labels, -1, dtype=np.int64)
        for rows in rows_of:
            labels, places = np.unique(np.asarray(rows.labels), return_index=True)
            known = labels >= 0
            first_token_C[labels[known]] = _first_targets(rows.take(places[known]).targets)
        return cls(first_token_C, vocab_size, smoothing)

    def offsets(self, rows: Rows) -> np.ndarray:
        """Return what a client with these rows adds to the logits where an answer begins, float32 (V,).

        Zero but at the first tokens of labels: log of the smoothed prior over an equal one; labels that begin with the
        same token have their priors added up.
        """
        labels, num_labels = np.asarray(rows.labels), len(self.first_token_C)
        count_C = np.bincount(labels[labels >= 0], minlength=num_labels)
        prior_C = (1 - self.smoothing) * count_C / max(1, count_C.sum()) + self.smoothing / num_labels
        known_C = self.first_token_C >= 0
        prior_V = np.bincount(self.first_token_C[known_C], prior_C[known_C], minlength=self.vocab_size)
        equal_V = np.bincount(self.first_token_C[known_C], minlength=self.vocab_size) / num_labels
        is_label_V = equal_V > 0
        offset_V = np.zeros(self.vocab_size, dtype=np.float32)
        offset_V[is_label_V] = np.log(prior_V[is_label_V] / equal_V[is_label_V])
        return offset_V


def _first_targets(targets_RT: np.ndarray) -> np.ndarray:
    return targets_RT[np.arange(len(targets_RT)), (targets_RT != IGNORED).argmax(axis=1)]
