"""The tokenizers of a fleet: one for all, or each model type its own, with the rows that every type reads."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np

from heterotune.data.client_rows import RowsOfTypes
from heterotune.data.clients_data import FederatedData
from heterotune.data.text_tokenizer import TextTokenizer, load_tokenizer
from heterotune.errors import ModelError
from heterotune.fleet.model_source import EMBEDDED_PREFIX
from heterotune.fleet.model_types import ModelType


def load_fleet_tokenizers(model_types: Sequence[ModelType], override: str | None = None) -> tuple[TextTokenizer, ...]:
    """Load the tokenizer of every model type: the one beside it, or the one that the run file names.

    Args:
        model_types: The fleet.
        override: `data.tokenizer` of the run file.

    Raises:
        DataError: If a tokenizer is missing or unreadable.
        ModelError: If a model's vocabulary is smaller than its tokenizer's.
    """
    references = [override or _reference_of(model_type) for model_type in model_types]
    loaded = {reference: load_tokenizer(reference) for reference in dict.fromkeys(references)}
    tokenizers = tuple(loaded[reference] for reference in references)
    for model_type, tokenizer in zip(model_types, tokenizers, strict=True):
        if model_type.vocab_size < tokenizer.vocab_size:
            raise ModelError(
                f"{model_type.name}: its vocabulary of {model_type.vocab_size} is smaller than the tokenizer's "
                f"{tokenizer.vocab_size} tokens. Give data.tokenizer the tokenizer that this model was trained with."
            )
    return tokenizers


def rows_of_types(
    model_types: Sequence[ModelType],
    tokenizers: Sequence[TextTokenizer],
    build: Callable[[TextTokenizer], FederatedData],
) -> tuple[FederatedData, ...]:
    """Return the data as each model type sees it: the held-out rows in its own tokens, all of the same documents.

    Training rows, and what is counted of them, are in the tokens of the client's model type, and the same in every
    element. With one tokenizer all elements are one object.

    Args:
        model_types: The fleet.
        tokenizers: One for each model type.
        build: Makes the rows of all clients with a tokenizer; called once for each that differs.
    """
    views: dict[Hashable, FederatedData] = {}
    for tokenizer in tokenizers:
        if (kind := _kind(tokenizer)) not in views:
            views[kind] = build(tokenizer)
    if len(views) == 1:
        return tuple(views.values()) * len(model_types)
    of_type = [views[_kind(tokenizer)] for tokenizer in tokenizers]
    bounds = tuple(accumulate((model_type.num_clients for model_type in model_types), initial=0))
    train = RowsOfTypes(tuple(view.train for view in of_type), bounds)
    parts = zip(of_type, bounds, bounds[1:], strict=False)
    holdings = tuple(each for view, first, end in parts for each in view.holdings[first:end])
    dropped = tuple(np.flatnonzero(train.num_rows == 0).tolist())
    mixed = {"train": train, "holdings": holdings, "dropped": dropped, "known_digest": ""}  # that was of other rows
    return tuple(replace(view, **mixed) for view in of_type)


def _kind(tokenizer: TextTokenizer) -> Hashable:
    """Return what decides the rows that a tokenizer makes: all but the object that does it."""
    return tuple(value for name, value in vars(tokenizer).items() if name != "backend")


def _reference_of(model_type: ModelType) -> str | Path:
    source = model_type.source
    return source.reference if source.reference.startswith(EMBEDDED_PREFIX) or not source.folder else source.folder
