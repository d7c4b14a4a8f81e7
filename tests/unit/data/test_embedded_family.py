"""The family that ships with the package: loadable, small, and trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import LlamaForCausalLM

from heterotune.data.corpora import public_texts
from heterotune.data.text_tokenizer import TextTokenizer
from heterotune.fleet.model_source import embedded_root

FAMILY = {"small": [0, 1, 2, 3], "large": list(range(8)), "large-3q": [0, 1, 2, 4, 6, 7], "large-2q": [0, 2, 4, 7]}
TOOL = Path(__file__).parents[3] / "tools" / "pretrain_family.py"


def test_the_family_is_at_most_12_megabytes() -> None:
    assert sum(path.stat().st_size for path in embedded_root().rglob("*") if path.is_file()) <= 12_000_000


@pytest.mark.parametrize("name", FAMILY)
def test_a_member_loads_as_an_ordinary_llama(name: str) -> None:
    folder = embedded_root() / name
    lm, report = LlamaForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert lm.dtype == torch.float16
    assert lm.lm_head.weight is lm.model.embed_tokens.weight
    assert json.loads((folder / "config.json").read_text())["original_layers"] == FAMILY[name]
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys()


@pytest.mark.parametrize("name", FAMILY)
def test_a_member_has_learnt_python(name: str, embedded_tokenizer: TextTokenizer) -> None:
    lm = LlamaForCausalLM.from_pretrained(embedded_root() / name, dtype=torch.float32)
    long_texts = [text for text in public_texts() if len(text) > 20_000][:8]
    ids = torch.tensor([embedded_tokenizer.encode(text[:4000])[:128] for text in long_texts])
    with torch.no_grad():
        loss = lm(input_ids=ids, labels=ids).loss.item()
    assert loss < 4.5  # knowing nothing costs log(2048) = 7.6 nats per token


def test_a_sibling_keeps_the_named_layers_and_a_saved_model_loads(load_file, tmp_path: Path) -> None:  # noqa: ANN001
    tool = load_file(TOOL)
    torch.manual_seed(0)
    small = tool.build("small")
    sibling = tool.cut_sibling(small, (0, 2, 3))
    for place, layer in enumerate((0, 2, 3)):
        for cut, original in zip(
            sibling.model.layers[place].parameters(), small.model.layers[layer].parameters(), strict=True
        ):
            assert torch.equal(cut, original)
    tool.save(sibling, tmp_path / "sibling", (0, 2, 3))
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "sibling")
    assert loaded.config.num_hidden_layers == 3
    ids = torch.arange(20).view(1, 20)
    with torch.no_grad():
        assert torch.allclose(loaded.float()(ids).logits, sibling(ids).logits, atol=5e-3)


def test_a_sibling_of_all_layers_is_the_model_itself(load_file) -> None:  # noqa: ANN001
    tool = load_file(TOOL)
    torch.manual_seed(0)
    small = tool.build("small")
    ids = torch.arange(20).view(1, 20)
    with torch.no_grad():
        assert torch.equal(tool.cut_sibling(small, (0, 1, 2, 3))(ids).logits, small(ids).logits)
