"""A PEFT LoRA as the starting point: what is exported comes back as it was, and what does not fit says what to set."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from heterotune.adapters.peft_start import check_start, read_starts
from heterotune.adapters.tables import adapter_layout
from heterotune.checkpoint import read_checkpoint
from heterotune.collective.single import SingleChannel
from heterotune.config.load import load_run, parse_run
from heterotune.errors import ConfigError, ModelError
from heterotune.export.command import ExportForm, export_adapter
from heterotune.export.run_adapter import Choice, read_run_adapter
from heterotune.fleet.model_types import read_model_types
from heterotune.preflight import check, with_known_starts
from heterotune.profiling.timing import Stopwatch
from heterotune.run_folder import RunFolder
from heterotune.runner import run_strategies

TINY = "random:hidden_size=32,intermediate_size=48,num_hidden_layers=2,num_attention_heads=4,initializer_range=0.2"
SIBLINGS = [
    {"name": "large", "model": "embedded:large", "clients": 1},
    {"name": "large-2q", "model": "embedded:large-2q", "siblings_of": "large", "clients": 1},
]


def run_of(fleet, **options):
    run = {"name": "begun", "rounds": 1, "fleet": fleet, "data": {"source": "embedded:stdlib"}, **options}
    return parse_run(run)


@pytest.fixture
def lora(make_run, tmp_path) -> Path:
    """An export of a plain LoRA of rank 8 and alpha 16 for `TINY`."""
    run = make_run([{"name": "tiny", "model": TINY, "clients": 2}], strategy="fedavg_lora")
    export_adapter(run.path, tmp_path / "lora", Choice("tiny"), ExportForm())
    return tmp_path / "lora"


def problems_with(lora: Path, *, strategy: str = "fedavg_lora", model: str = TINY, **options) -> str:
    """Everything that is wrong with an adapter for a fleet of one."""
    config = run_of(
        [{"name": "tiny", "model": model, "clients": 2, "adapter": str(lora)}], strategy=strategy, **options
    )
    fleet = read_model_types(config.fleet)
    return "\n".join(
        check_start(config.fleet[0], "fleet.0", adapter_layout(strategy, config, fleet[0], fleet), strategy)
    )


def change(lora: Path, **fields) -> None:
    path = lora / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_run_starts_where_an_export_ended_and_resumes_without_the_file(make_run, lora, tmp_path, monkeypatch):
    (tmp_path / "text.jsonl").write_text(
        "".join(json.dumps({"text": f"line {n} of a text that is long enough " * 3}) + "\n" for n in range(40))
    )
    tried = next(path for path in tmp_path.glob("tried-*"))
    before = read_run_adapter(tried, Choice("tiny"))
    config = run_of(
        [{"name": "tiny", "model": TINY, "clients": 2, "adapter": str(lora)}],
        strategy="fedavg_lora",
        data={"source": str(tmp_path / "text.jsonl"), "fields": {"text": "text"}, "partition": {"by": "iid"}},
        local={"steps": 1},
        chunk={"clients": 2},
        backbone={"ds_config": "none", "dtype": "fp32"},
    )
    folder = RunFolder.create(config, tmp_path, config.name)
    cpu = torch.device("cpu")
    run_strategies(check(config), SingleChannel(), cpu, folder, Stopwatch())
    begun = read_checkpoint(folder.path / "checkpoints" / "round-000000")
    for spec in before.layout.travelling:
        assert torch.equal(begun.tensors[f"values/{spec.key}"], before.values[spec.name])
    resolved = load_run(folder.config_path)
    assert len(resolved.fleet[0].adapter_sha256) == 64 and resolved.fleet[0].adapter == str(lora)
    shutil.rmtree(lora)
    longer = resolved.model_copy(update={"rounds": 2})
    run_strategies(check(longer), SingleChannel(), cpu, folder, Stopwatch(), resume=True)
    assert folder.read_summary()["rounds"] == 2


def test_siblings_meet_by_original_layer(make_run, tmp_path):
    """Layers of large that large-2q kept begin alike in both, whichever of the two brings them."""
    run = make_run(SIBLINGS, heterotune={"head_rank": 0})
    for name in ("large", "large-2q"):
        export_adapter(run.path, tmp_path / name, Choice(name), ExportForm())
    after = read_run_adapter(run.path, Choice("large"))
    of_key = {spec.key: after.values[spec.name] for spec in after.layout.travelling}
    for giving, num_layers in (("large",), 8), (("large-2q",), 4), (("large", "large-2q"), 8):
        fleet = [
            each | ({"adapter": str(tmp_path / each["name"])} if each["name"] in giving else {}) for each in SIBLINGS
        ]
        config = run_of(fleet)
        types = read_model_types(config.fleet)
        layouts = [adapter_layout("heterotune", config, each, types) for each in types]
        start = read_starts(with_known_starts(config, types).fleet, layouts, "heterotune")
        assert len(start) == num_layers * 7 * 2
        assert all(torch.equal(value, of_key[key]) for key, value in start.items())
    tensors = load_file(tmp_path / "large-2q" / "adapter_model.safetensors")
    save_file({name: value + 1 for name, value in tensors.items()}, tmp_path / "large-2q" / "adapter_model.safetensors")
    with pytest.raises(
        ModelError, match="fleet.1.adapter = .* and a sibling's adapter differ in width/large/.* Give one"
    ):
        with_known_starts(config, types)


def test_a_plain_lora_fits(lora):
    assert problems_with(lora) == ""
    assert problems_with(lora, strategy="heterotune") == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fedavg_lora": {"adapter_rank": 4}}, "has rank 8 at .*, and the run 4. Set fleet.0.adapter_rank to 8."),
        ({"fedavg_lora": {"adapter_alpha": 8}}, "by 2 at .*, and the run by 1. Set fedavg_lora.adapter_alpha to 16."),
        ({"fedavg_lora": {"targets": ["q_proj"]}}, r"the run q_proj. Set fedavg_lora.targets to \[down_proj, "),
        ({"model": TINY.replace("=48", "=64")}, "of 32 x 48, and this model's is 32 x 64. Give an"),
        ({"model": TINY.replace("layers=2", "layers=3")}, "only the run adapts layers.2.* Give an adapter"),
        ({"strategy": "fedavg_full"}, "strategy fedavg_full shares no whole LoRA that it could start. Leave adapter"),
        ({"strategy": "heterotune", "heterotune": {"activation": "silu"}}, "Set heterotune.activation to none"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_does_not_fit_says_what_to_set(lora, options, message):
    assert re.search(f"fleet.0.adapter = .*{message}", problems_with(lora, **options))


def test_a_lora_in_two_parts_has_no_single_start(lora):
    fleet = [{"name": "large", "model": "embedded:large", "clients": 1, "adapter": str(lora)}, SIBLINGS[1]]
    config = run_of(fleet, heterotune={"lora_scope": "split"})
    with pytest.raises(ModelError, match="in two parts here. Set heterotune.lora_scope to width or type"):
        with_known_starts(config, read_model_types(config.fleet))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_rslora": True}, "no plain LoRA: use_rslora = true scales by alpha / sqrt"),
        ({"use_dora": True}, "use_dora = true trains the weights' magnitudes"),
        ({"lora_bias": True}, "lora_bias = true has biases.*--without-head"),
        ({"bias": "all"}, "bias = 'all' trains the model's biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save = .* brings whole modules"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights = .* belongs to changed frozen weights"),
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'. Only a LORA can start"),
        ({"lora_alpha": "much"}, "lora_alpha = 'much' is no number above 0"),
        ({"alpha_pattern": {"q_proj": 4}}, "scaled by 0.5 at layers.0.self_attn.q_proj"),
        ({"alpha_pattern": {"(": 4}}, r"alpha_pattern has no regular expression in '\('"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_other_kinds_are_refused(lora, fields, message):
    change(lora, **fields)
    assert re.search(message, problems_with(lora))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda lora: (lora / "adapter_config.json").unlink(), "adapter_config.json cannot be read there"),
        (lambda lora: (lora / "adapter_config.json").write_text("{"), "adapter_config.json is not readable JSON"),
        (lambda lora: (lora / "adapter_model.safetensors").unlink(), "adapter_model.safetensors is missing there"),
        (lambda lora: (lora / "adapter_model.safetensors").write_bytes(b"x"), "model.safetensors cannot be read"),
    ],
    ids=["no config", "no JSON", "no weights", "no safetensors"],
)
def test_files_that_are_no_adapter(lora, spoil, message):
    spoil(lora)
    assert message in problems_with(lora)


def edit(lora: Path, *, drop: str = "", **added: torch.Tensor) -> None:
    file = lora / "adapter_model.safetensors"
    save_file({name: value for name, value in load_file(file).items() if name != drop} | added, file)


def test_tensors_that_are_no_lora(lora):
    edit(lora, **{"base_model.model.lm_head.lora_A.weight": torch.zeros(2, 2)})
    assert "holds 'base_model.model.lm_head.lora_A.weight', which is no LoRA of a layer's linear" in problems_with(lora)


def test_half_a_lora(lora):
    edit(lora, drop="base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight")
    assert "A and B of layers.0.self_attn.q_proj do not fit together" in problems_with(lora)


def starts(lora: Path, **fields):
    config = run_of(
        [{"name": "tiny", "model": TINY, "clients": 2, "adapter": str(lora), **fields}], strategy="fedavg_lora"
    )
    types = read_model_types(config.fleet)
    return read_starts(config.fleet, [adapter_layout("fedavg_lora", config, types[0], types)], "fedavg_lora")


def test_a_file_that_was_changed_since_the_run_was_checked(lora):
    with pytest.raises(
        ModelError, match="has SHA-256 .* was written down. Bring that file back, or drop adapter_sha256"
    ):
        starts(lora, adapter_sha256="0" * 64)


def test_values_that_are_not_finite(lora):
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    edit(lora, **{name: torch.full((32, 8), torch.nan)})
    with pytest.raises(ModelError, match="layers.0.self_attn.q_proj.lora.U is not finite. Give another adapter"):
        starts(lora)


def test_all_that_is_wrong_is_told_before_a_run_starts(lora):
    change(lora, lora_alpha=4)
    config = run_of([{"name": "tiny", "model": TINY, "clients": 2, "adapter": str(lora)}], strategy="fedavg_lora")
    with pytest.raises(ModelError, match="Set fedavg_lora.adapter_alpha to 4"):
        with_known_starts(config, read_model_types(config.fleet))


def test_a_digest_of_nothing_is_a_mistake():
    with pytest.raises(ConfigError, match="adapter_sha256 is given without adapter"):
        run_of([{"name": "tiny", "model": TINY, "clients": 2, "adapter_sha256": "0" * 64}])
