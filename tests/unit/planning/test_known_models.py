"""The shapes of known LLaMAs have as many parameters as their publishers say."""

from __future__ import annotations

import pytest

from heterotune.config.fleet_options import FleetEntry
from heterotune.fleet.model_types import read_model_types
from heterotune.planning.known_models import HUB_IDS, KNOWN_MODELS, describe

PUBLISHED = {
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3.2-1b": 1_235_814_400,
}
"""Number of parameters that each checkpoint's page on the hub shows."""


@pytest.mark.parametrize("name", KNOWN_MODELS)
def test_parameters_are_as_published(name) -> None:
    model_type = read_model_types((FleetEntry(name=name, model=KNOWN_MODELS[name], clients=1),))[0]
    assert model_type.num_parameters == PUBLISHED[name]


@pytest.mark.parametrize("hub_id", HUB_IDS)
def test_hub_ids_of_known_models_need_no_cache(hub_id) -> None:
    model_type = read_model_types((FleetEntry(name="m", model=hub_id, clients=1),), describe)[0]
    assert model_type.num_parameters == PUBLISHED[HUB_IDS[hub_id]] and model_type.source.folder is not None
