"""What is checked of a run's protection before any rank starts, when its clients are known."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from heterotune.config.availability_options import AvailabilityOptions
from heterotune.config.fault_options import Byzantine, MisbehaviourOptions
from heterotune.config.load import dump_run, parse_run
from heterotune.config.schema import RunConfig
from heterotune.errors import ConfigError, DataError, ModelError, TooFewAvailable
from heterotune.fleet.clients import make_population
from heterotune.fleet.device_hours import device_hours
from heterotune.fleet.model_types import read_model_types
from heterotune.preflight import (
    CheckedRun,
    check,
    check_every_type_trains,
    check_logit_adjustment,
    check_protection,
    with_counted_classes,
    with_known_devices,
    with_known_windows,
)

TYPES = (SimpleNamespace(name="small", index=0), SimpleNamespace(name="large", index=1))
LITTLE = {"source": "embedded:stdlib", "max_tokens": 16, "max_rows_per_client": 2}
PC = {"flops_per_second": 1e9, "memory_gib": 4.0, "down_mbit_per_second": 1.0, "up_mbit_per_second": 1.0}
ASSIGNED = {"assign": {"small": "pc", "large": "pc"}}
CLIENTS = make_population([6, 6], [0 if number == 3 else 10 for number in range(12)])


def config(**changes: object) -> RunConfig:
    fleet = [{"name": "small", "model": "embedded:small", "clients": 6}]
    fleet.append({"name": "large", "model": "embedded:large", "clients": 6})
    return parse_run({"name": "tiny", "rounds": 4, "fleet": fleet, "data": {"source": "embedded:stdlib"}, **changes})


def test_a_default_run_passes() -> None:
    check_protection(config(), TYPES, CLIENTS)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"cohort": {"clients": 4, "min_clients": 5}}, "cohort.min_clients = 5 is more than the 4 clients"),
        (
            {"misbehaviour": {"byzantine": {"behaviour": "zero", "clients": [3]}}},
            "misbehaviour.byzantine.clients: 3 is no client with rows in this fleet",
        ),
    ],
)
def test_what_a_round_cannot_do_is_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check_protection(config(**changes), TYPES, CLIENTS)


def test_a_model_type_that_no_round_would_have_is_refused() -> None:
    uneven = make_population([11, 1], [10] * 12)
    told = r"cohort.clients = 4 is too few for any round to have a client of large \(1 of the fleet's 12 clients\)"
    with pytest.raises(ConfigError, match=told + r"\. Set it to 12, or take large out of fleet\."):
        check_every_type_trains(config(cohort={"clients": 4}), TYPES, uneven)
    check_every_type_trains(config(cohort={"clients": 12}), TYPES, uneven)
    clock = {"mode": "buffered", "concurrency": 1, "buffer": 1}
    buffered = config(devices={"profiles": {"pc": PC}, **ASSIGNED}, clock=clock)
    with pytest.raises(ConfigError, match=r"clock.concurrency = 1 is too few .* client of small .* Set it to 3, or"):
        check_every_type_trains(buffered, TYPES, CLIENTS)
    with pytest.raises(ConfigError, match="cohort.clients = 1 is too few for any round to have a client of large"):
        check(config(cohort={"clients": 1}, data=LITTLE))


def test_a_fraction_has_clients_of_every_model_type_that_has_any() -> None:
    check_every_type_trains(config(cohort={"fraction": 0.01}), TYPES, CLIENTS)
    check_every_type_trains(config(cohort={"clients": 1}), TYPES, make_population([6, 6], [10] * 6 + [0] * 6))


def test_a_head_whose_rank_nobody_named_fits_the_narrowest_model(tmp_path: Path) -> None:
    rows = [{"text": f"query {number}", "label": "ab"[number % 2]} for number in range(80)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {
        "root": str(tmp_path),
        "source": "rows.jsonl",
        "fields": {"text": "text", "label": "label"},
        "public": {"path": "rows.jsonl", "fields": {"text": "text"}},
        "partition": {"by": "iid"},
    }
    fleet = [
        {"name": "narrow", "model": "random:hidden_size=48,num_attention_heads=4", "clients": 2},
        {"name": "small", "model": "embedded:small", "clients": 2},
    ]
    asked = config(fleet=fleet, data=data)
    checked = check(asked)
    assert (asked.heterotune.head_rank, checked.config.heterotune.head_rank) == ("auto", 48)
    assert "head_rank: 48" in dump_run(checked.config)
    with pytest.raises(ModelError, match="^heterotune.head_rank = 64 is more than the width 48 of narrow. Lower it.$"):
        check(config(fleet=fleet, data=data, heterotune={"head_rank": 64}))


def test_a_round_that_never_finds_its_cohort_is_refused() -> None:
    diurnal = {"model": "diurnal", "share": 0.5, "start_spread": 1.0}
    with_known_windows(config(cohort={"clients": 2}, availability=diurnal), CLIENTS)
    told = (
        "round 1: at second 0 there are . of the 5 clients of model type 0 that a round needs, and never all of them in"
    )
    with pytest.raises(TooFewAvailable, match=told):
        with_known_windows(config(availability=diurnal), CLIENTS)
    assert with_known_windows(config(), CLIENTS) == config()


def test_it_is_those_a_clock_sends_out_who_must_be_there() -> None:
    given = {
        "devices": {"profiles": {"pc": PC}, **ASSIGNED},
        "availability": {"model": "diurnal", "share": 0.5, "start_spread": 1.0},
    }
    few = config(**given, clock={"mode": "buffered", "concurrency": 2, "buffer": 1})
    assert with_known_windows(few, CLIENTS) == few
    many = config(**given, clock={"mode": "over_selection", "over_select": 6.0}, cohort={"clients": 2})
    with pytest.raises(TooFewAvailable, match="of the 5 clients of model type 0 that a round needs"):
        with_known_windows(many, CLIENTS)


def test_a_run_goes_on_with_the_trace_it_began_with(tmp_path) -> None:
    file = tmp_path / "windows.csv"
    file.write_text("class,start_seconds,end_seconds\nphone,0,50\n")
    known = with_known_windows(config(availability={"model": "trace", "trace": str(file)}), CLIENTS)
    assert with_known_windows(known, CLIENTS) == known
    file.write_text("class,start_seconds,end_seconds\nphone,0,60\n")
    with pytest.raises(ConfigError, match=r"it has SHA-256 \w{12}..., and \w{12}... was written down. Bring that file"):
        with_known_windows(known, CLIENTS)


def test_sections_are_told_in_the_run_file() -> None:
    byzantine = {"behaviour": "scale", "share": 0.2}
    chosen = config(misbehaviour={"dropout": 0.1, "byzantine": byzantine}, updates={"max_norm": 3.0})
    assert chosen.misbehaviour == MisbehaviourOptions(dropout=0.1, byzantine=Byzantine(**byzantine))
    with pytest.raises(ConfigError, match="names client 12, and the fleet has 12. Name ids from 0 to 11."):
        config(misbehaviour={"byzantine": {"behaviour": "zero", "clients": [12]}})


def test_the_data_says_how_many_classes_there_are() -> None:
    assert with_counted_classes(config(), ()) == config()
    proto = config(compare_with=["fedproto"])
    assert with_counted_classes(proto, ("a", "b")).fedproto.num_classes == 2
    wider = config(strategy="fedproto", fedproto={"num_classes": 5})
    assert with_counted_classes(wider, ("a", "b")).fedproto.num_classes == 5
    with pytest.raises(DataError, match="strategy fedproto needs classes, and no row has a label"):
        with_counted_classes(proto, ())
    with pytest.raises(DataError, match="fedproto.num_classes = 5, and the data has 6 labels. Raise it, or set auto."):
        with_counted_classes(wider, tuple("abcdef"))


def test_logit_adjustment_needs_labels_in_one_kind_of_tokens() -> None:
    adjusted = config(local={"logit_adjustment": 0.2})
    labelled, others = SimpleNamespace(label_names=("a", "b")), SimpleNamespace(label_names=("a", "b"))
    check_logit_adjustment(adjusted, [labelled, labelled])
    check_logit_adjustment(config(), [SimpleNamespace(label_names=())])
    with pytest.raises(DataError, match=r"local.logit_adjustment = 0.2 needs labels, and no row has one"):
        check_logit_adjustment(adjusted, [SimpleNamespace(label_names=())])
    with pytest.raises(DataError, match=r"needs one tokenizer, and the fleet has several. Use one, or set it to null"):
        check_logit_adjustment(adjusted, [labelled, others])


@pytest.mark.usefixtures("datasets_cache")
def test_public_text_is_read_before_anything_starts(tmp_path: Path) -> None:
    shape = "random:hidden_size=16,intermediate_size=24,num_attention_heads=2,vocab_size=2048"
    fleet = [{"name": each, "model": f"{shape},num_hidden_layers={n}", "clients": 1} for n, each in enumerate("ab", 1)]
    rows = [{"text": f"what is {n} and {n}", "label": "odd" if n % 2 else "even"} for n in range(16)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"source": "rows.jsonl", "fields": {"text": "text", "label": "label"}, "partition": {"by": "iid"}}

    def checked(public: str | None, **options: int) -> CheckedRun:
        given = {**data, "root": str(tmp_path), "max_tokens": 16, "public": public}
        return check(config(fleet=fleet, data=given, heterotune={"head_rank": 4, "head_basis": 8, **options}))

    with pytest.raises(DataError, match=r"data\.public = questions\.jsonl: no such file or folder"):
        checked("questions.jsonl")
    with pytest.raises(DataError, match=r"in data\.public, or set align_positions: all and distill_every: 0\."):
        checked(None, distill_every=2)
    assert checked(None, distill_every=0).public is not None  # the embedded modules
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps({"text": f"what is {n}"}) + "\n" for n in range(9)))
    found = checked("questions.jsonl")
    assert found.config.heterotune.distill_every == 4
    assert ((found.public.targets >= 0).sum(axis=1) == 1).tolist() == [True] * 9
    assert checked("questions.jsonl", head_rank=0).public is None


def test_devices_are_written_into_the_run(tmp_path: Path) -> None:
    profile = "{flops_per_second: 1.0e9, memory_gib: 4.0, down_mbit_per_second: 1.0, up_mbit_per_second: 1.0}"
    (tmp_path / "devices.yaml").write_text(f"profiles: {{phone: {profile}, pc: {profile}}}")
    (tmp_path / "trace.csv").write_text("profile\n" + "phone\n" * 12)
    file = str(tmp_path / "devices.yaml")
    assigned = config(devices={"file": file, **ASSIGNED})
    traced = config(devices={"file": file, "trace": str(tmp_path / "trace.csv")})
    model_types = read_model_types(assigned.fleet)
    assert with_known_devices(config(), model_types) == config()
    found = with_known_devices(assigned, model_types).devices
    assert (found.file, list(found.profiles)) == (None, ["pc"])
    resolved = with_known_devices(traced, model_types)
    assert resolved.devices.trace_sha256 == hashlib.sha256((tmp_path / "trace.csv").read_bytes()).hexdigest()
    assert list(resolved.devices.profiles) == ["phone"]
    assert with_known_devices(resolved, model_types) == resolved
    (tmp_path / "trace.csv").write_text("profile,memory_gib\n" + "phone,0.001\n" * 12)
    with pytest.raises(ConfigError, match="devices: phone has 1.02 MiB, and a client of small needs"):
        with_known_devices(traced, model_types)


def test_who_sends_masked_updates_is_not_lost_on_the_way() -> None:
    def masked(**changes: object) -> RunConfig:
        devices = {"profiles": {"pc": {**PC, **changes}}, **ASSIGNED}
        return config(devices=devices, clock={"mode": "synchronous"}, secure_aggregation={"enabled": True})

    model_types, fits, drained = read_model_types(config().fleet), masked(), masked(battery_wh=10.0)
    assert with_known_devices(fits, model_types) == fits
    with pytest.raises(ConfigError, match="not lost on their way, and devices have battery_wh. Set it to null, or"):
        with_known_devices(drained, model_types)
    away = fits.model_copy(update={"availability": AvailabilityOptions(model="diurnal")})
    with pytest.raises(ConfigError, match="not lost on their way, and availability.model = diurnal. Set always, or"):
        with_known_devices(away, model_types)
    unmasked = {"secure_aggregation": drained.secure_aggregation.model_copy(update={"enabled": False})}
    with_known_devices(drained.model_copy(update=unmasked), model_types)


def test_hours_of_devices_count_from_round_one() -> None:
    devices = {"profiles": {"pc": {**PC, "available_hours": [[1.0, 2.0]]}}, **ASSIGNED}
    unused = config(devices=devices)
    with pytest.raises(ConfigError, match="available_hours does nothing under availability.model = always"):
        with_known_devices(unused, read_model_types(unused.fleet))
    known = with_known_devices(
        config(devices=devices, availability={"model": "devices"}), read_model_types(unused.fleet)
    )
    assert with_known_windows(known, CLIENTS, device_hours(known, read_model_types(known.fleet))) == known
