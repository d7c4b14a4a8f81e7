"""Control variates beside every trained tensor of an adapter: state of a method, as rows of its table of scopes."""

from __future__ import annotations

from dataclasses import replace

from heterotune.adapters.layout import AdapterLayout, TensorSpec

COMMON, OWN = "common_control.", "own_control."
"""Before a tensor's name: the control variate that all clients of a model type share, and the client's own."""


def with_control_variates(layout: AdapterLayout) -> AdapterLayout:
    """Return a layout with a common and an own control variate of every tensor, in the order of the tensors.

    Names begin with a prefix, so that within their groups they are sorted as the trained tensors in theirs.
    """
    return replace(layout, tensors=(*layout.tensors, *(control(s, p) for s in layout.tensors for p in (COMMON, OWN))))


def control(spec: TensorSpec, prefix: str) -> TensorSpec:
    """Return the control variate of a tensor: zero at first, not trained."""
    return replace(
        spec,
        name=prefix + spec.name,
        key=prefix + spec.key if prefix == COMMON else "",
        scope=spec.scope if prefix == COMMON else "client",
        group=f"{spec.group}.{prefix.rstrip('.')}",
        init="zeros",
        trains=False,
    )
