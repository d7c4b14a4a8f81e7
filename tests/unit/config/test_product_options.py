"""Methods of product space and windows: what they cannot be combined with, and what their options may be."""

from __future__ import annotations

import pytest

from heterotune.config.load import parse_run
from heterotune.config.methods import METHODS
from heterotune.errors import ConfigError

EACH = ("fedex_lora", "flora", "flexlora", "hetlora")
WHOLE = ("heterofl", "fedrolex")


@pytest.mark.parametrize("name", ["flora", "flexlora", "fedrolex"])
def test_what_topk_owes_must_mean_the_same_next_round(run, name):
    told = f"collective.wire = topk: strategy {name} gives a client's elements a new meaning every round"
    with pytest.raises(ConfigError, match=told):
        parse_run({**run, "compare_with": [name], "collective": {"wire": "topk"}})
    assert parse_run({**run, "compare_with": [name], "collective": {"wire": "int8"}})


def test_what_topk_owes_must_be_in_the_coordinates_of_the_next_round(run):
    told = r"strategy heterotune gives a client's elements a new meaning where .* \(realign_every = 2\), so what topk"
    topk = {**run, "collective": {"wire": "topk"}}
    with pytest.raises(ConfigError, match=told):
        parse_run({**topk, "heterotune": {"realign_every": 2}})
    assert parse_run({**topk, "heterotune": {"head_rank": 0}})


@pytest.mark.parametrize("name", ["hetlora", "heterofl", "fedrolex"])
def test_parts_of_a_tensor_arrive_alike_in_all_model_types(run, name):
    told = f"collective.wire_down = int8: strategy {name} gives model types different parts of a tensor"
    with pytest.raises(ConfigError, match=told):
        parse_run({**run, "strategy": name, "collective": {"wire_down": "int8"}})
    assert parse_run({**run, "strategy": name, "collective": {"wire_down": "bf16"}})


@pytest.mark.parametrize("name", [*EACH, *WHOLE])
def test_the_root_combines(run, name):
    assert METHODS[name].needs == ("single updates" if name in EACH else "whole sums")
    told = f"strategy {name} needs {METHODS[name].needs} in one place"
    with pytest.raises(ConfigError, match=told):
        parse_run({**run, "strategy": name, "collective": {"topology": "sharded"}})


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ({"hetlora": {"kept_share": 1.5}}, "hetlora.kept_share = 1.5 is too large"),
        ({"hetlora": {"weights": "rows"}}, "hetlora.weights = 'rows' is not a choice"),
        ({"hetlora": {"regulariser": -1}}, "hetlora.regulariser = -1 is too small"),
        ({"heterofl": {"share": "depth"}}, "heterofl.share = 'depth' is not a choice"),
    ],
)
def test_options_have_bounds(run, override, told):
    with pytest.raises(ConfigError, match=told):
        parse_run({**run, **override})
