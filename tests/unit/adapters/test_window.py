"""Parts of common tensors: where they are, and which model types share what."""

from __future__ import annotations

import numpy as np
import pytest

from heterotune.adapters.window import Window
from heterotune.adapters.windowed_lora import windowed_lora_layout
from heterotune.config.fleet_options import FleetEntry
from heterotune.config.product_options import FedrolexOptions, HeteroflOptions
from heterotune.fleet.model_types import read_model_types

MODEL = "random:hidden_size=16,intermediate_size=24,num_attention_heads=2,vocab_size=97"
FLEET = read_model_types(
    (
        FleetEntry(name="a", model=f"{MODEL},num_hidden_layers=4", clients=1, adapter_rank=4),
        FleetEntry(
            name="a-low",
            model=f"{MODEL},num_hidden_layers=2",
            clients=1,
            adapter_rank=2,
            siblings_of="a",
            layers=(1, 3),
        ),
        FleetEntry(name="b", model=f"{MODEL.replace('16', '12')},num_hidden_layers=2", clients=1, adapter_rank=3),
    )
)
A, LOW, B = FLEET


def test_a_prefix_is_the_first_places_of_every_axis():
    whole = np.arange(12).reshape(3, 4)
    places = Window((3, 4)).places((2, 3), round_number=9)
    assert whole.ravel()[places].reshape(2, 3).tolist() == whole[:2, :3].tolist()


def test_a_rolling_window_goes_round():
    rows = [Window((4, 1), rolling_axis=0).places((3, 1), round_number).tolist() for round_number in (1, 2, 3, 4, 5)]
    assert rows == [[0, 1, 2], [1, 2, 3], [2, 3, 0], [3, 0, 1], [0, 1, 2]]


def test_a_part_is_no_larger_than_the_whole():
    with pytest.raises(AssertionError, match="axis 0: 3 places of 2"):
        Window((2, 2)).places((3, 2), 1)


@pytest.mark.parametrize("rolls", [False, True])
def test_siblings_share_components_by_original_layer_and_scale(rolls):
    options = FedrolexOptions(adapter_alpha=16.0)
    whole, low, other = (windowed_lora_layout(options, each, FLEET, rolls=rolls) for each in FLEET)
    keys = [{spec.key: spec for spec in layout.tensors} for layout in (whole, low, other)]
    assert keys[1].keys() < keys[0].keys() and not keys[2].keys() & keys[0].keys()
    assert {branch.scale for branch in (*whole.branches, *low.branches)} == {4.0}
    assert {branch.scale for branch in other.branches} == {16.0 / 3}
    for key, spec in keys[1].items():
        assert spec.common.shape == keys[0][key].common.shape
        rank_axis = 0 if key.endswith("V") else 1
        assert spec.shape[rank_axis] == 2 and spec.common.shape[rank_axis] == 4
        assert spec.window.rolling_axis == (rank_axis if rolls else None)
    assert low.branches[0].module == "layers.0.self_attn.q_proj" and low.branches[0].site.startswith("a/layers.1.")


def test_all_types_share_coordinates_by_relative_depth():
    layouts = [windowed_lora_layout(HeteroflOptions(), each, FLEET, share="width") for each in FLEET]
    keys = [{spec.key: spec for spec in layout.tensors} for layout in layouts]
    assert keys[1].keys() == keys[2].keys() < keys[0].keys()
    assert {key.split("/layers.")[1].split(".")[0] for key in keys[2]} == {"0", "2"}
    for each in keys:
        assert len(each) == len(layouts[keys.index(each)].tensors)  # no two layers of one type meet
    down = keys[2]["fleet/layers.2.mlp.down_proj.lora.V"]
    assert down.shape == (3, 24) and down.common.shape == (4, 24)
    assert keys[2]["fleet/layers.2.self_attn.q_proj.lora.V"].common.shape == (4, 16)
