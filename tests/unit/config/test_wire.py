"""The wire's keys: what "auto" means, what is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from heterotune.collective.codecs import CODECS
from heterotune.config.engine_options import CollectiveConfig


@pytest.mark.parametrize(
    ("given", "picked"),
    [
        ({}, "fp32"),
        ({"wire": "bf16"}, "bf16"),
        ({"wire": "int8"}, "fp32"),
        ({"wire": "topk"}, "fp32"),
        ({"wire": "bf16", "wire_down": "fp32"}, "fp32"),
        ({"wire_down": "int8"}, "int8"),
    ],
)
def test_what_auto_means(given, picked):
    assert CollectiveConfig(**given).picked_wire_down == picked


def test_every_codec_can_be_chosen():
    for codec in CODECS:
        assert CollectiveConfig(wire=codec.name).wire == codec.name


@pytest.mark.parametrize(
    "given", [{"wire": "int4"}, {"wire_down": "topk"}, {"topk_share": 0}, {"topk_share": 1.01}, {"topk_shares": 0.1}]
)
def test_what_there_is_not_is_refused(given):
    with pytest.raises(ValidationError):
        CollectiveConfig(**given)
