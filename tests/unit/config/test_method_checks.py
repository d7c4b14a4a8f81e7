"""What a federated method needs of a round, against how the run sums, hides and combines updates."""

from __future__ import annotations

import pytest

from heterotune.config.load import parse_run
from heterotune.config.methods import METHODS
from heterotune.errors import ConfigError

NOISE = {"mechanism": "gaussian", "noise_multiplier": 1.0, "clip_norm": 1.0}
WHOLE = [name for name, method in METHODS.items() if method.needs == "whole sums"]
EACH = [name for name, method in METHODS.items() if method.needs == "single updates"]


@pytest.mark.parametrize("name", [*WHOLE, *EACH])
def test_what_keeps_state_needs_the_root(run, name):
    told = f"strategy {name} needs {METHODS[name].needs} in one place, and collective.topology = sharded spreads them"
    with pytest.raises(ConfigError, match=told):
        parse_run({**run, "compare_with": [name], "collective": {"topology": "sharded"}})
    assert parse_run({**run, "compare_with": [name]}).needs_of(name) == METHODS[name].needs


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.needs == "slices"])
def test_what_works_element_by_element_does_not(run, name):
    other = {"heterotune": "fedavg_lora"}.get(name, "heterotune")
    config = parse_run({**run, "strategy": other, "compare_with": [name], "collective": {"topology": "sharded"}})
    assert config.collective.topology == "sharded"


@pytest.mark.parametrize(
    ("section", "what"),
    [
        ({"cohort": {"min_clients": 2}}, "cohort.min_clients = 2"),
        ({"aggregate": {"rule": "median"}}, "aggregate"),
        ({"misbehaviour": {"dropout": 0.1}}, "misbehaviour"),
        (
            {"privacy": NOISE},
            "privacy.mechanism = gaussian",
        ),
        ({"secure_aggregation": {"enabled": True}}, "secure_aggregation"),
    ],
)
def test_one_place_has_no_single_clients(run, section, what):
    told = f"{what} is about single clients, and strategy centralised trains in one place. Leave one of them out."
    with pytest.raises(ConfigError, match=told):
        parse_run({**run, "compare_with": ["centralised"], **section})
    parse_run({**run, **section})


@pytest.mark.parametrize(
    ("section", "what"),
    [
        ({"aggregate": {"rule": "median"}}, "aggregate.rule = median"),
        ({"privacy": NOISE}, "privacy.mechanism = gaussian"),
        ({"collective": {"wire": "topk"}}, "collective.wire = topk"),
    ],
)
def test_prototypes_need_true_sums(run, section, what):
    told = f"{what} would change sums that strategy fedproto divides by one another. Leave one of them out."
    with pytest.raises(ConfigError, match=told):
        parse_run({**run, "compare_with": ["fedproto"], **section})
    parse_run({**run, **section})
    parse_run({**run, "compare_with": ["fedproto"], "aggregate": {"rule": "norm_clipping", "max_norm": 1.0}})


@pytest.mark.parametrize(
    ("section", "what"),
    [
        ({"aggregate": {"rule": "median"}}, "aggregate.rule = median"),
        ({"privacy": NOISE}, "privacy.mechanism = gaussian"),
        ({"secure_aggregation": {"enabled": True}}, "secure_aggregation"),
    ],
)
def test_single_updates_leave_nothing_to_protect(run, section, what):
    chosen = {"strategy": "fedavg_lora", "compare_with": ["heterotune"], "heterotune": {"cmga_tasks": "clients"}}
    with pytest.raises(ConfigError, match=f"combines single updates itself, so {what} cannot act on their sum"):
        parse_run({**run, **chosen, **section})


@pytest.mark.parametrize(
    ("options", "needs"),
    [
        ({}, "slices"),
        ({"cmga": "aligned_mtl"}, "slices"),
        ({"cmga": "gradvac"}, "whole sums"),
        ({"cmga": "mgda", "cmga_tasks": "clients"}, "single updates"),
        ({"cmga": "none", "cmga_tasks": "clients"}, "slices"),
    ],
)
def test_what_heterotune_needs_depends_on_its_options(run, options, needs):
    chosen = {**run, "heterotune": options}
    assert parse_run(chosen).needs_of("heterotune") == needs
    if needs != "slices":
        with pytest.raises(ConfigError, match=f"strategy heterotune needs {needs} in one place"):
            parse_run({**chosen, "collective": {"topology": "sharded"}})


def test_targets_over_rounds_are_of_model_types(run):
    with pytest.raises(ConfigError, match="cmga = gradvac follows pairs over rounds, and cmga_tasks = clients"):
        parse_run({**run, "heterotune": {"cmga": "gradvac", "cmga_tasks": "clients"}})


def test_there_is_no_noise_on_nothing(run):
    told = (
        "privacy.mechanism = gaussian is noise on sums, and strategy local_only sends nothing. Leave one of them out."
    )
    with pytest.raises(ConfigError, match=told):
        parse_run({**run, "strategy": "local_only", "privacy": NOISE})
    parse_run({**run, "strategy": "local_only"})
