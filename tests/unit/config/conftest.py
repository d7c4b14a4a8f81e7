"""A small valid run to change one thing in."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def run() -> dict[str, Any]:
    """A fresh valid run as YAML would give it: 3 model types, one of them a sibling, 12 clients."""
    return {
        "name": "trial",
        "rounds": 2,
        "fleet": [
            {"name": "small", "model": "embedded:small", "clients": 4},
            {"name": "large", "model": "embedded:large", "clients": 6},
            {"name": "large-2q", "model": "embedded:large-2q", "siblings_of": "large", "clients": 2},
        ],
        "data": {"source": "embedded:stdlib"},
    }
