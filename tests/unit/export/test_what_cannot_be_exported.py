"""Every refusal says what is wrong and what else can be done; nothing is left behind."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from heterotune.checkpoint import Checkpoint, save_checkpoint
from heterotune.errors import CheckpointError, ExportError
from heterotune.export.command import ExportForm, export_adapter
from heterotune.export.run_adapter import Choice, read_run_adapter
from heterotune.fleet.model_source import embedded_root

SMALL = Choice("small")
MERGE = ExportForm(merge=True)


def refused(message: str):
    return pytest.raises(ExportError, match=message)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice("smal"), "--model-type smal is not in this run's fleet. Did you mean small"),
        (Choice("small", strategy="fedavg_lora"), "--strategy fedavg_lora is not in this run. There is: heterotune"),
        (Choice("small", client=2), "--client 2 holds no small: those are clients 0 to 1"),
        (Choice("small", client=1), "--client 1: the clients of small hold no tensors of their own"),
        (Choice("small", round_number=7), r"--round 7 is not saved in .* \(there are: none\). See checkpoint.keep"),
        (Choice("small", best=True), "kept no best round. See checkpoint.keep_best, or take --round N"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_the_run_does_not_have(make_run, tmp_path, choice, message):
    with refused(message):
        export_adapter(make_run().path, tmp_path / "out", choice, ExportForm())


def state_of_client_1(path: Path) -> Path:
    """Return the file with what client 1 keeps, alone in it."""
    (found,) = (each for each in (path / "clients").iterdir() if load_file(each)["client_ids"].tolist() == [1])
    return found


def test_a_client_that_never_trained(make_run, tmp_path):
    run = make_run(heterotune={"personal_rank": 2})
    state_of_client_1(run.path).unlink()
    with refused("--client 1 has trained nothing yet"):
        export_adapter(run.path, tmp_path / "out", Choice("small", client=1), ExportForm())


def test_a_run_that_has_not_ended_names_the_rounds_that_are_saved(make_run, tmp_path):
    run = make_run()
    save_checkpoint(run.path, Checkpoint(2, {"x": torch.zeros(1)}, {"best": None}, tmp_path / "none"), keep=1)
    (run.path / "adapters" / "small.safetensors").unlink()
    with refused(
        r"the run has not ended. Take a saved round with --round N \(there are: 2\), or go on with `heterotune resume "
    ):
        export_adapter(run.path, tmp_path / "out", SMALL, ExportForm())


@pytest.mark.parametrize("wanted", [{"round_number": 2}, {"best": True}], ids=str)
def test_a_saved_round_brings_its_own_values_frame_and_clients(make_run, tmp_path, wanted):
    run = make_run(heterotune={"personal_rank": 2})
    last = read_run_adapter(run.path, Choice("small", client=1))
    saved = {f"values/{spec.key}": last.values[spec.name] + 1 for spec in last.layout.travelling}
    saved |= {f"frames/0/{name}": value + 2 for name, value in vars(last.frame).items()}
    facts = {"best": {"round": 2, "heldout_loss": 3.0}}
    save_checkpoint(run.path, Checkpoint(2, saved, facts, run.path / "clients"), keep=1)
    personal = state_of_client_1(run.path)
    tensors = load_file(personal)
    personal.unlink()  # files are never changed in place
    save_file({**tensors, "values": tensors["values"] + 5}, personal)
    found = read_run_adapter(run.path, Choice("small", client=1, **wanted))
    for spec in last.layout.tensors:
        added = 0 if spec.scope == "client" else 1
        assert torch.equal(found.values[spec.name], last.values[spec.name] + added), spec.name
    assert torch.equal(found.frame.mean_D, last.frame.mean_D + 2)


def test_tensors_of_another_run_are_not_taken(make_run, tmp_path):
    run = make_run()
    file = run.path / "adapters" / "small.safetensors"
    save_file(load_file(file) | {"head.S": torch.zeros(2, 2)}, file)
    with pytest.raises(CheckpointError, match=r"head.S is \(2, 2\) torch.float32, not \(33, 64\)"):
        read_run_adapter(run.path, SMALL)


def test_a_whole_model_is_no_adapter(make_run, tmp_path):
    with refused(re.escape("small was trained whole (fedavg_full): there is no adapter. Add --merge for the model.")):
        export_adapter(make_run(strategy="fedavg_full").path, tmp_path / "out", SMALL, ExportForm())


@pytest.mark.parametrize(
    ("options", "form", "message"),
    [
        ({}, MERGE, "adds a bias to the logits, and a LLaMA's lm_head has none .* off by up to [0-9.]+ .*--drop-head"),
        ({"activation": "silu", "head_rank": 0}, MERGE, "activation = silu puts a non-linearity into the branches"),
        ({}, ExportForm(head="no-bias"), "--drop-head-bias goes with --merge"),
        ({}, ExportForm(dtype="fp8"), "--dtype fp8 is not one of auto, fp32, bf16, fp16"),
        ({}, ExportForm(merge=True, head="without", base=Path("b")), "--base is for adapters"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_forms_that_lose_something(make_run, tmp_path, options, form, message):
    with refused(message):
        export_adapter(make_run(heterotune=options).path, tmp_path / "out", SMALL, form)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_only_an_earlier_export_is_replaced_and_only_if_asked(make_run, tmp_path):
    run, out = make_run(), tmp_path / "out"
    export_adapter(run.path, out, SMALL, ExportForm())
    with refused("out holds an earlier export. Name another folder, or add --force to replace it"):
        export_adapter(run.path, out, SMALL, ExportForm())
    (out / "extra").touch()
    export_adapter(run.path, out, SMALL, ExportForm(force=True, head="without"))
    assert not (out / "extra").exists() and "lm_head" not in (out / "adapter_config.json").read_text()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").touch()
    with refused("mine is there and is no earlier export. Name another folder, or remove it yourself"):
        export_adapter(run.path, mine, SMALL, ExportForm(force=True))
    assert (mine / "thesis.tex").exists()


def test_a_folder_that_cannot_be_written(make_run, tmp_path):
    (tmp_path / "file").touch()
    with refused("cannot be written"):
        export_adapter(make_run().path, tmp_path / "file" / "out", SMALL, ExportForm())


def test_adapters_share_a_base_folder_if_it_holds_just_that_model(make_run, tmp_path):
    run, form = make_run(), ExportForm(base=tmp_path / "base")
    for name in ("a", "b"):
        export_adapter(run.path, tmp_path / name, SMALL, form)
        config = json.loads((tmp_path / name / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(tmp_path / "base")
        assert not (tmp_path / name / "base").exists()
    weights = load_file(tmp_path / "base" / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, tmp_path / "base" / "model.safetensors")
    with refused("base holds another model than this run's base"):
        export_adapter(run.path, tmp_path / "c", SMALL, form)
    (tmp_path / "base" / "config.json").unlink()
    with refused("base is not empty and holds no model"):
        export_adapter(run.path, tmp_path / "c", SMALL, form)


def test_the_card_has_the_runs_facts_and_nobodys_paths(make_run, tmp_path):
    run = make_run(data={"source": str(tmp_path / "secret.jsonl"), "fields": {"text": "t"}})
    numbers = {"loss_before": 3.5, "loss_after": 2.5, "up_bytes_per_client_round": 10.0}
    run.write_summary({"model_types": {"small": numbers}, "global_adapter_sha256": "ab" * 32})
    said = export_adapter(run.path, tmp_path / "out", SMALL, ExportForm(dtype="bf16"))
    card = (tmp_path / "out" / "README.md").read_text()
    for fact in (
        "Method: heterotune (DeMA and CMGA",
        "; reconstruction)",
        "| loss after | 2.5 |",
        "ab" * 32,
        "| rounds | 3 |",
        "To be filled in",
    ):
        assert fact in card
    assert str(tmp_path) not in card
    assert said[0].startswith("lora of small after round 3, the last: ")
    assert "| base model | embedded:small |" in card and 'from_pretrained("this folder/base"' in card
    modes = {path.stat().st_mode for path in (tmp_path / "out").rglob("*.*")}
    assert len(modes) == 1, "a file that others cannot read"
    assert load_file(tmp_path / "out" / "adapter_model.safetensors").popitem()[1].dtype == torch.bfloat16


def test_the_card_says_what_the_method_is(make_run, tmp_path):
    run = make_run(strategy="ffa_lora")
    export_adapter(run.path, tmp_path / "out", SMALL, ExportForm())
    text = (tmp_path / "out" / "README.md").read_text()
    assert "Method: ffa_lora (FedAvg of U alone: V stays at random values" in text
    assert "Sun et al., ICLR 2024, arXiv:2403.12313; official form" in text


def test_the_command(make_run, tmp_path, heterotune):
    run, out = make_run(), tmp_path / "out"
    done = heterotune("export", run.path, out, "--model-type", "small", "--without-head")
    assert done.exit_code == 0 and "The head branch that all model types share is left out" in done.stdout
    both = heterotune("export", run.path, out, "--model-type", "small", "--best", "--round", 1)
    assert both.exit_code == 2 and "--best and --round exclude each other" in both.stderr
    both = heterotune("export", run.path, out, "--model-type", "small", "--without-head", "--drop-head-bias")
    assert both.exit_code == 2 and "--without-head and --drop-head-bias exclude each other" in both.stderr


def test_a_base_that_stays_where_it_is(make_run, tmp_path):
    """A folder is named, not copied; where its embeddings are tied, the export says what that means."""
    folder = embedded_root() / "small"
    run = make_run([{"name": "small", "model": str(folder), "clients": 2}], data={"source": "embedded:stdlib"})
    said = export_adapter(run.path, tmp_path / "out", SMALL, ExportForm())
    assert any("ties its embeddings, which lm_eval cannot load" in line for line in said)
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(folder)
    assert not (tmp_path / "out" / "base").exists()
    assert str(folder.parent) not in (tmp_path / "out" / "README.md").read_text()
    said = export_adapter(run.path, tmp_path / "other", SMALL, ExportForm(base=tmp_path / "base"))
    assert not any("ties its embeddings" in line for line in said)
    assert "lm_head.weight" in load_file(tmp_path / "base" / "model.safetensors")
