"""The model card of an export: what it is, how to load it, and the run's facts. Nothing of the user's paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from heterotune.config.methods import METHODS
from heterotune.errors import LaunchError
from heterotune.export.run_adapter import RunAdapter

_MODEL_TYPE_FACTS = ("loss_before", "loss_after", "up_bytes_per_client_round", "down_bytes_per_client_round")
_ENVIRONMENT_FACTS = ("heterotune", "python", "torch", "transformers", "deepspeed")


def card_text(adapter: RunAdapter, *, kind: str, base: str, usage: str, notes: Sequence[str]) -> str:
    """Return README.md of an export.

    Args:
        adapter: What is exported.
        kind: "lora", "dema" or "merged".
        base: Name of the base model: a hub id, or what it is called here without its path.
        usage: Python that loads it.
        notes: Sentences about what is not as in the run.
    """
    card_data = ModelCardData(
        base_model=base if _is_hub_id(base) else None,
        library_name="transformers" if kind == "merged" else "peft",
        pipeline_tag="text-generation",
        tags=["heterotune", "federated-learning", adapter.strategy, kind],
    )
    facts = "\n".join(f"| {name} | {value} |" for name, value in _facts(adapter, base).items())
    told = "".join(f"- {note}\n" for note in notes) + ("\n" if notes else "")
    content = f"""---
{card_data.to_yaml()}
---

# {adapter.config.name}: {adapter.model_type.name}

Trained with [heterotune](https://arxiv.org/abs/2411.16796): federated fine-tuning of a heterogeneous LLaMA fleet,
simulated. Method: {_method(adapter.strategy)}.

```python
{usage}
```

{told}| of the run | |
|---|---|
{facts}

## Licence

To be filled in by whoever publishes this: the base model's licence and the data's both matter.
"""
    return str(ModelCard(content))


def _facts(adapter: RunAdapter, base: str) -> dict[str, Any]:
    """Return what a reader wants to know; losses, bytes and versions if the run has ended."""
    config, summary = adapter.config, _summary(adapter)
    facts: dict[str, Any] = {
        "base model": base,
        "strategy": adapter.strategy,
        "exported": f"after {adapter.when}" + ("" if adapter.client is None else f", for client {adapter.client}"),
        "rounds": config.rounds,
        "fleet (clients)": ", ".join(f"{entry.name} ({entry.clients})" for entry in config.fleet),
        "cohort": config.cohort.clients or f"{config.cohort.fraction:g} of the clients",
        "local training": _local(config.local),
        "seed": config.seed,
        "wire": config.collective.wire,
    }
    if config.privacy.mechanism != "none":
        facts["privacy"] = config.privacy.mechanism
    mine = summary.get("model_types", {}).get(adapter.model_type.name, {})
    facts |= {name.replace("_", " "): mine[name] for name in _MODEL_TYPE_FACTS if name in mine}
    if "global_adapter_sha256" in summary:
        facts["SHA-256 of the run's global adapters"] = summary["global_adapter_sha256"]
    environment = summary.get("environment", {})
    return facts | {name: environment[name] for name in _ENVIRONMENT_FACTS if name in environment}


def _method(name: str) -> str:
    """Say what a method is, whose, and how near ours is to its source."""
    method = METHODS[name]
    return f"{name} ({method.summary}; {method.source}; {method.form})"


def _local(local: Any) -> str:
    length = f"{local.steps} steps" if local.epochs is None else f"{local.epochs} epochs"
    return f"{length} of {local.batch_size} rows, {local.optimizer}, learning rate {local.learning_rate:g}"


def _summary(adapter: RunAdapter) -> Mapping[str, Any]:
    """Return summary.json; empty where the run has not ended."""
    try:
        return adapter.folder.find_summary() or {}
    except LaunchError:
        return {}


def _is_hub_id(base: str) -> bool:
    return base.count("/") == 1 and not base.startswith((".", "/", "~"))
