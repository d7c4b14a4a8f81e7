"""Section `fleet` of a run file: model types and how many clients hold each."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from heterotune.config.field_types import LARGEST_LIST, Count, CountOrZero, Name, Section, Text
from heterotune.config.heterotune_options import HeterotuneOptions
from heterotune.config.method_options import FedavgLoraOptions
from heterotune.config.random_model import RANDOM_PREFIX, parse_random_model


class FleetEntry(Section):
    """One model type and how many clients hold it."""

    name: Name
    """The model type's name in metrics, ledger and adapter files; letters, digits, dots, dashes, underscores."""
    model: Text
    """"embedded:small", "random:hidden_size=256,...", a folder, or a hub id of a LLaMA-architecture checkpoint."""
    clients: Count
    """Clients of this model type, at least 1."""
    siblings_of: Name | None = None
    """Name of the entry whose model this one was depth-pruned from; null = not a sibling."""
    layers: Annotated[tuple[CountOrZero, ...], Field(max_length=LARGEST_LIST)] | None = None
    """Original numbers of a sibling's layers, strictly increasing; null = the model folder says."""
    adapter_rank: Count | None = None
    """LoRA rank for this model type, at least 1; null = the strategy's."""
    adapter: Text | None = None
    """Folder of a PEFT LoRA that this model type's shared LoRA starts from; null = from nothing."""
    adapter_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 of its adapter_model.safetensors, 64 hexadecimal digits; null = written into the run's config.yaml."""

    @field_validator("model")
    @classmethod
    def _check_model(cls, text: str) -> str:
        """A `random:` model is spelt out here, so its spelling is checked here."""
        if text.startswith(RANDOM_PREFIX):
            parse_random_model(text)
        if text == "embedded:":
            raise ValueError("names no model. Write embedded:small, for example.")
        return text

    @field_validator("layers")
    @classmethod
    def _check_layers(cls, layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
        """Layer numbers are a selection in the original order."""
        if layers is not None and (not layers or any(a >= b for a, b in zip(layers, layers[1:], strict=False))):
            raise ValueError("is not strictly increasing. List each original layer once, from low to high.")
        return layers

    @model_validator(mode="after")
    def _check_adapter(self) -> FleetEntry:
        """A digest is of something."""
        if self.adapter_sha256 is not None and self.adapter is None:
            raise ValueError("adapter_sha256 is given without adapter. Name the adapter's folder, or drop it.")
        return self

    @property
    def family(self) -> str:
        """Name of the model type that its siblings were cut from: its own if it is no sibling."""
        return self.siblings_of or self.name

    def adapter_rank_under(self, options: HeterotuneOptions | FedavgLoraOptions) -> int:
        """Return the LoRA rank of this model type under a strategy's options."""
        return options.adapter_rank if self.adapter_rank is None else self.adapter_rank
