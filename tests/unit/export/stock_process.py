"""Load exports as their users do: with transformers and peft, and no import of heterotune. Run by conftest.py."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = "import os\n\ndef main():\n    return os.name\n"


def main(folder: Path) -> None:
    """Write logits.safetensors and found.json."""
    warnings.simplefilter("ignore")
    outs = {name: Path(out) for name, out in json.loads((folder / "outs.json").read_text()).items()}
    input_ids = load_file(folder / "input_ids.safetensors")["input_ids"]
    logits, tokens = {}, {}
    for name, out in outs.items():
        if name != "silu":
            logits[name], tokens[name] = read(out, input_ids)
    found = {"imported": [module for module in sys.modules if module.startswith("heterotune")], "tokens": tokens}
    import heterotune.peft_dema  # noqa: F401  # the one adapter kind that peft does not bring

    logits["silu"], _ = read(outs["silu"], input_ids)
    save_file(logits, folder / "logits.safetensors")
    (folder / "found.json").write_text(json.dumps(found))


@torch.no_grad()
def read(out: Path, input_ids: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """Return an export's logits and the tokens of a text."""
    base = out
    if (out / "adapter_config.json").is_file():
        base = Path(json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"])
    model = AutoModelForCausalLM.from_pretrained(base)
    if base != out:
        model = PeftModel.from_pretrained(model, out)
    return model(input_ids=input_ids).logits, AutoTokenizer.from_pretrained(base)(TEXT).input_ids


if __name__ == "__main__":
    main(Path(sys.argv[1]))
