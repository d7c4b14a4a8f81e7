"""Federated methods, one file each, with the name that run files use. None of them knows how many ranks there are."""

from __future__ import annotations

from importlib import import_module

from heterotune.config.schema import RunConfig
from heterotune.strategies.strategy import Strategy


def make_strategy(name: str, config: RunConfig) -> Strategy:
    """Return the method that a run file names (`config.methods.METHODS`), with its own section of options."""
    return import_module(f"heterotune.strategies.{name}").make(config)
