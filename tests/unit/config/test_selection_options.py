"""The sections about who takes part and when: defaults, refusals, and what privacy forbids."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from heterotune.config import availability_options, cohort_options, field_types
from heterotune.config.availability_options import AvailabilityOptions
from heterotune.config.cohort_options import CohortConfig, OortOptions
from heterotune.config.fault_options import Interruptions
from heterotune.config.load import parse_run
from heterotune.errors import ConfigError

MODELS = [
    value
    for module in (availability_options, cohort_options)
    for value in vars(module).values()
    if isinstance(value, type) and issubclass(value, BaseModel) and value is not field_types.Section
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_is_described(model):
    assert model.__doc__
    for name, info in model.model_fields.items():
        assert info.description and info.description.strip().endswith("."), name


def test_by_default_everybody_is_drawn_alike_and_always_there():
    assert CohortConfig().select == "uniform" and not CohortConfig().needs_reports
    assert not AvailabilityOptions().is_limited
    assert [name for name in ("by_size", "by_loss", "oort") if CohortConfig(select=name).needs_reports] == [
        "by_loss",
        "oort",
    ]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: AvailabilityOptions(model="trace"), "model = trace and trace = null do not fit. Give both a file and"),
        (lambda: AvailabilityOptions(trace="a.csv"), "model = always and trace = a.csv do not fit. Give both a file"),
        (
            lambda: AvailabilityOptions(check_seconds=0.1),
            "check_seconds = 0.1 looks more than 100000 times in a period",
        ),
        (lambda: AvailabilityOptions(trace_sha256="0" * 64), "trace_sha256 is given without trace. Name the file, or"),
        (lambda: Interruptions(probability=0.1, earliest=0.5, latest=0.5), "earliest = 0.5 is not below latest = 0.5"),
        (lambda: OortOptions(cut_off=0.0), "greater than 0"),
        (lambda: CohortConfig(select="best"), "'uniform', 'by_size', 'by_loss', 'power_of_choice' or 'oort'"),
    ],
)
def test_what_makes_no_sense_is_refused(make, told):
    with pytest.raises(ValidationError, match=told):
        make()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"cohort": {"select": "by_loss"}},
            "counts on a uniform draw of all clients, and cohort.select = by_loss. Set",
        ),
        (
            {"availability": {"model": "diurnal"}},
            "counts on a uniform draw of all clients, and availability.model = di",
        ),
    ],
)
def test_a_draw_that_is_not_accounted_for_is_refused_under_privacy(changes, told):
    run = {
        "name": "tiny",
        "rounds": 1,
        "fleet": [{"name": "small", "model": "embedded:small", "clients": 6}],
        "data": {"source": "embedded:stdlib"},
        **changes,
    }
    parse_run(run)
    with pytest.raises(ConfigError, match=f"privacy.mechanism = gaussian {told}"):
        parse_run({**run, "privacy": {"mechanism": "gaussian", "clip_norm": 1.0, "noise_multiplier": 1.0}})
