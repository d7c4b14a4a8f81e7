"""`heterotune export`: an adapter out of a run folder, with a card, into a folder that appears when it is whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from heterotune.backbone.load import DTYPES
from heterotune.config.engine_options import NO_QUANTIZATION
from heterotune.config.random_model import RANDOM_PREFIX
from heterotune.errors import ExportError
from heterotune.export.model_card import card_text
from heterotune.export.peft_files import DEMA_TYPE, write_peft_adapter
from heterotune.export.run_adapter import Choice, RunAdapter, read_run_adapter
from heterotune.export.stacking import LM_HEAD, StackedSite, stack_branches
from heterotune.export.whole_model import write_base, write_merged
from heterotune.fleet.model_source import EMBEDDED_PREFIX
from heterotune.plain_files import is_folder, is_plain_file

MARK_FILE = "heterotune_export.json"
"""What was exported; only a folder with this file in it is ever replaced."""
BASE_FOLDER = "base"
_ONLY_HERE = (EMBEDDED_PREFIX, RANDOM_PREFIX)


@dataclass(frozen=True)
class ExportForm:
    """What an export looks like.

    Attributes:
        merge: A whole model instead of an adapter.
        head: "whole" = as it is; "no-bias" = what a LLaMA can hold of it; "without" = not at all.
        dtype: fp32, bf16 or fp16 of what is written; "auto" = fp32 for an adapter, the run's own for a whole model.
        base: Folder for the frozen base model; None = OUT/base where the run's own is nothing that others can load.
        force: Replace an earlier export.
    """

    merge: bool = False
    head: str = "whole"
    dtype: str = "auto"
    base: Path | None = None
    force: bool = False


def export_adapter(run_dir: Path, out: Path, choice: Choice, form: ExportForm) -> list[str]:
    """Export one model type's adapter of a run.

    Args:
        run_dir: The run folder.
        out: The folder to make.
        choice: Which adapter.
        form: As what.

    Returns:
        What was written and what is not as in the run, a sentence each.

    Raises:
        ExportError: If it cannot be exported like this, or not to there; says what else can be done.
        HeterotuneError: What `read_run_adapter` raises.
    """
    if form.dtype not in ("auto", *DTYPES):
        raise ExportError(f"--dtype {form.dtype} is not one of auto, {', '.join(DTYPES)}.")
    out = out.absolute()
    _check_out(out, force=form.force)
    adapter = read_run_adapter(run_dir, choice)
    frame = None if form.head == "without" else adapter.frame
    sites = stack_branches(adapter.layout, adapter.values, frame)
    _check_form(adapter, sites, form)
    with _made_whole(out) as unfinished:
        write = _write_merged if form.merge else _write_adapter
        notes, kind, usage = write(unfinished, out, adapter, sites, form)
        card = card_text(adapter, kind=kind, base=_shown_reference(adapter), usage=usage, notes=notes)
        (unfinished / "README.md").write_text(card, encoding="utf-8")
        mark = {"model_type": adapter.model_type.name, "strategy": adapter.strategy, "kind": kind}
        (unfinished / MARK_FILE).write_text(json.dumps(mark) + "\n", encoding="utf-8")
    return [f"{kind} of {adapter.model_type.name} after {adapter.when}: {out}", *notes]


def _check_form(adapter: RunAdapter, sites: Mapping[str, StackedSite], form: ExportForm) -> None:
    """Refuse what would not be what the run trained, and say what there is instead."""
    name, strategy = adapter.model_type.name, adapter.strategy
    if not form.merge:
        if form.head == "no-bias":
            raise ExportError("--drop-head-bias goes with --merge; an adapter holds the bias. Leave it out.")
        if adapter.layout.dense:
            raise ExportError(f"{name} was trained whole ({strategy}): there is no adapter. Add --merge for the model.")
        if not sites:
            raise ExportError(f"{name}: nothing is left of its adapter without the head. Leave --without-head out.")
        return
    if form.base is not None:
        raise ExportError("--base is for adapters; a merged model needs no base. Leave it out.")
    curved = next((site.activation for site in sites.values() if site.activation != "none"), None)
    if curved is not None:
        raise ExportError(
            f"heterotune.activation = {curved} puts a non-linearity into the branches of {name}, which no weight "
            "matrix can hold. Leave --merge out: the adapter loads with peft after `import heterotune.peft_dema`."
        )
    head = sites.get(LM_HEAD)
    if head is not None and head.bias_O is not None and form.head == "whole":
        largest, typical = head.bias_O.abs().max().item(), head.bias_O.std().item()
        raise ExportError(
            f"The head branch of {name} adds a bias to the logits, and a LLaMA's lm_head has none to merge it into. "
            f"Without the bias single logits would be off by up to {largest:.3g} (standard deviation {typical:.3g}). "
            "Leave --merge out for an adapter that is exact, or add --drop-head-bias, or --without-head for a model "
            "without the head branch."
        )


def _write_adapter(
    unfinished: Path, out: Path, adapter: RunAdapter, sites: Mapping[str, StackedSite], form: ExportForm
) -> tuple[list[str], str, str]:
    base, notes = _base_of(unfinished, out, adapter, form, untie=LM_HEAD in sites), _head_notes(adapter, sites, form)
    if adapter.base_change:
        notes.append(f"{adapter.strategy} changes frozen weights: the adapter belongs to the base that is written.")
    if LM_HEAD in sites and form.base is None and _is_tied_elsewhere(adapter):
        notes.append(
            "The base model ties its embeddings, which lm_eval cannot load with this; --base writes one untied."
        )
    dtype = DTYPES["fp32" if form.dtype == "auto" else form.dtype]
    write_peft_adapter(unfinished, sites, adapter.model_type, base, dtype)
    is_lora = all(site.activation == "none" for site in sites.values())
    shown = (
        "this folder/base" if base == str(out / BASE_FOLDER) else "the base model" if Path(base).is_absolute() else base
    )
    torch_dtype = str(DTYPES[adapter.dtype])
    usage = (
        "import torch\nfrom transformers import AutoModelForCausalLM\nfrom peft import PeftModel\n"
        + ("" if is_lora else "import heterotune.peft_dema  # registers the adapter kind DEMA\n")
        + f'\nbase = AutoModelForCausalLM.from_pretrained("{shown}", dtype={torch_dtype})\n'
        + 'model = PeftModel.from_pretrained(base, "this folder")'
    )
    return notes, "lora" if is_lora else DEMA_TYPE.lower(), usage


def _write_merged(
    unfinished: Path, out: Path, adapter: RunAdapter, sites: Mapping[str, StackedSite], form: ExportForm
) -> tuple[list[str], str, str]:
    dtype = adapter.dtype if form.dtype == "auto" else form.dtype
    write_merged(unfinished, adapter, sites, dtype)
    usage = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("this folder")\n'
        'tokenizer = AutoTokenizer.from_pretrained("this folder")'
    )
    return _head_notes(adapter, sites, form), "merged", usage


def _base_of(unfinished: Path, out: Path, adapter: RunAdapter, form: ExportForm, *, untie: bool) -> str:
    """Return what others load the base from; writes it where the run's own is in this package only."""
    reference = adapter.model_type.source.reference
    dtype = adapter.dtype if form.dtype == "auto" else form.dtype
    if form.base is not None:
        write_base(form.base.absolute(), adapter, dtype, untie=untie)
        return str(form.base.absolute())
    if reference.startswith(_ONLY_HERE) or adapter.base_change:
        write_base(unfinished / BASE_FOLDER, adapter, dtype, untie=untie)
        return str(out / BASE_FOLDER)
    return str(Path(reference).absolute()) if is_folder(Path(reference)) else reference


def _is_tied_elsewhere(adapter: RunAdapter) -> bool:
    """Return whether others load the base from where it is, with tied embeddings."""
    source = adapter.model_type.source
    return not source.reference.startswith(_ONLY_HERE) and bool(source.llama.get("tie_word_embeddings", False))


def _shown_reference(adapter: RunAdapter) -> str:
    """Return the base model's name without the path that it has here."""
    reference = adapter.model_type.source.reference
    return Path(reference).name if is_folder(Path(reference)) else reference


def _head_notes(adapter: RunAdapter, sites: Mapping[str, StackedSite], form: ExportForm) -> list[str]:
    """Say what of the run's adapter is not in the export, and where the base differs."""
    notes = []
    if adapter.config.backbone.quantize != NO_QUANTIZATION:
        told = f"The run trained beside {adapter.config.backbone.quantize} weights"
        notes.append(f"{told}; the base model here has whole ones, so its logits differ from the run's.")
    if adapter.layout.head is not None and form.head == "without":
        notes.append("The head branch that all model types share is left out: this is not the model the run scored.")
    if form.head == "no-bias" and LM_HEAD in sites:
        largest = sites[LM_HEAD].bias_O.abs().max().item()
        notes.append(f"The head branch's bias is left out: every token's logit is off by its own, up to {largest:.3g}.")
    if adapter.client is None and adapter.layout.trains_personal:
        notes.append("Clients' personal branches are left out; --client ID takes one client's in.")
    return notes


def _check_out(out: Path, *, force: bool) -> None:
    if not os.path.lexists(out) or (is_folder(out) and not any(out.iterdir())):
        return
    if not is_plain_file(out / MARK_FILE):
        raise ExportError(f"{out} is there and is no earlier export. Name another folder, or remove it yourself.")
    if not force:
        raise ExportError(f"{out} holds an earlier export. Name another folder, or add --force to replace it.")


@contextmanager
def _made_whole(out: Path) -> Iterator[Path]:
    """Yield a folder that takes the place of `out` when the block ends well.

    Raises:
        ExportError: If it cannot be written.
    """
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        shutil.rmtree(out, ignore_errors=True)
        os.replace(unfinished, out)
    except OSError as error:
        raise ExportError(f"{out}: cannot be written ({error}).") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
