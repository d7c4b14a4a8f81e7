"""Which ranks share a copy of a backbone, and what cannot be combined with it."""

from __future__ import annotations

import json

import pytest

from heterotune.config.load import load_run, parse_run
from heterotune.config.yaml_text import write_yaml
from heterotune.errors import ConfigError


@pytest.mark.parametrize("group", ["world", "node", "rank"])
def test_groups_of_sharded_copies(run, group):
    assert parse_run(run | {"backbone": {"group": group}}).backbone.group == group


def test_replicas_are_not_shared(run):
    parse_run(run | {"backbone": {"ds_config": "none", "group": "world"}})
    with pytest.raises(ConfigError) as caught:
        parse_run(run | {"backbone": {"ds_config": "none", "group": "node"}})
    assert caught.value.problems == (
        "backbone: group = node shares sharded copies, but ds_config = none gives every rank a replica. "
        "Drop group, or name a DeepSpeed JSON such as zero3_cpu.",
    )


def test_deepspeeds_own_groups_are_for_one_copy(run, tmp_path):
    ds_config = tmp_path / "hpz.json"
    ds_config.write_text(json.dumps({"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 2}}))
    path = tmp_path / "run.yaml"
    path.write_text(write_yaml(run | {"backbone": {"ds_config": str(ds_config)}}))
    assert load_run(path).backbone.group == "world"
    with pytest.raises(
        ConfigError, match="backbone.group = 'node' and zero_hpz_partition_size = 2 .*Drop one of the two"
    ):
        load_run(path, ["backbone.group=node"])


@pytest.mark.parametrize("bind", ["auto", "always", "never"])
def test_cores_are_bound_by_choice(run, bind):
    assert parse_run(run).bind_cores == "auto"
    assert parse_run(run | {"bind_cores": bind}).bind_cores == bind
