"""Load exports as their users do: with transformers and peft, and no import of heterotune. Run by conftest.py."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = "import os\n\ndef main():\n    return os.name\n"


def main(folder: Path) -> None:
    """Write logits.safetensors, found.json, and the adapter "fedavg_lora" as peft itself saves it."""
    warnings.simplefilter("ignore")
    outs = {name: Path(out) for name, out in json.loads((folder / "outs.json").read_text()).items()}
    input_ids = load_file(folder / "input_ids.safetensors")["input_ids"]
    logits, tokens = {}, {}
    for name, out in outs.items():
        if name != "silu":
            model, tokenizer = load(out)
            logits[name], tokens[name] = logits_of(model, input_ids), tokenizer(TEXT).input_ids
        if name == "fedavg_lora":
            model.save_pretrained(folder / "saved by peft")
    found = {"imported": [module for module in sys.modules if module.startswith("heterotune")], "tokens": tokens}
    import heterotune.peft_dema  # the one adapter kind that peft does not bring

    model, _ = load(outs["silu"])
    logits["silu"] = logits_of(model, input_ids)
    found["refused"] = refused(model, heterotune.peft_dema.DemaConfig)
    model.save_pretrained(folder / "silu")
    logits["silu, saved by peft"] = logits_of(load(folder / "silu")[0], input_ids)
    with model.disable_adapter():
        logits["silu, disabled"] = logits_of(model, input_ids)
    logits["silu, base"] = logits_of(model.unload(), input_ids)
    found["trainable"] = trainable(load(outs["silu"])[0].unload(), heterotune.peft_dema.DemaConfig, input_ids)
    save_file(logits, folder / "logits.safetensors")
    (folder / "found.json").write_text(json.dumps(found))


def load(out: Path) -> tuple[torch.nn.Module, AutoTokenizer]:
    """Return an export's model and tokenizer, as its card says."""
    base = out
    if (out / "adapter_config.json").is_file():
        base = Path(json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"])
    model = AutoModelForCausalLM.from_pretrained(base)
    return model if base == out else PeftModel.from_pretrained(model, out), AutoTokenizer.from_pretrained(base)


@torch.no_grad()
def logits_of(model: torch.nn.Module, input_ids: torch.Tensor) -> torch.Tensor:
    """Return the logits of every token."""
    return model(input_ids=input_ids).logits


def refused(model: torch.nn.Module, config: type) -> dict[str, str]:
    """Return what DEMA says to what it cannot do."""
    said = {}
    attempts = {
        "merge": lambda: model.merge_and_unload(),
        "activation": lambda: config(activation="gelu"),
        "embedding": lambda: model.add_adapter("other", config(target_modules=["embed_tokens"])),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
        except (NotImplementedError, ValueError, TypeError) as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


def trainable(base: torch.nn.Module, config: type, input_ids: torch.Tensor) -> list[str]:
    """Return the parameters that get a gradient where a new DEMA adapter is trained with peft."""
    model = get_peft_model(base, config(target_modules=["q_proj"], r=2, task_type="CAUSAL_LM"))
    model(input_ids=input_ids, labels=input_ids).loss.backward()
    return [name for name, parameter in model.named_parameters() if parameter.grad is not None]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
