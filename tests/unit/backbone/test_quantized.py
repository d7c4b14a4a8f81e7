"""4-bit backbones on the CPU: transformers' values, small weights, gradients that reach the adapters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from heterotune.adapters.attach import AttachedAdapter
from heterotune.adapters.bank import stack_clients
from heterotune.adapters.layout import initial_value
from heterotune.adapters.lora import lora_layout
from heterotune.backbone.quantized import quantization_states
from heterotune.config.method_options import FedavgLoraOptions
from heterotune.randomness import NO_CLIENT
from heterotune.training.objective import ChunkBatch, client_losses

CASE = Path(__file__).parents[2] / "multirank" / "cases" / "families.py"
WIDE = "random:hidden_size=128,intermediate_size=256,num_hidden_layers=2,num_attention_heads=4,vocab_size=97"


@pytest.fixture
def case(load_file):
    return load_file(CASE)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("name", ["llama-3", "biases"])
def test_losses_are_those_of_transformers_with_bitsandbytes(case, tmp_path, name, kind):
    whole = case.write_family(name, tmp_path)
    chosen = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_compute_dtype=torch.float32)
    reference = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, quantization_config=chosen, device_map="cpu"
    )
    for module in reference.modules():  # else bitsandbytes 0.50.2 packs weights for CPUs with AVX-512 BF16, and fails
        module.support_avx512bf16_for_cpu = False
    with torch.no_grad():
        logits = reference(case.IDS_RT[:, :-1]).logits.transpose(1, 2)
    expected = torch.nn.functional.cross_entropy(logits, case.IDS_RT[:, 1:], reduction="none")
    found = case.losses(case.load(tmp_path, quantize=kind))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert 1e-3 < (found - whole).abs().mean() < 0.2


def test_weights_of_the_layers_take_an_eighth_of_fp32(case):
    def layer_bytes(backbone):
        layers = backbone.llama.layers
        tensors = [*layers.parameters(), *quantization_states(layers)]
        return sum(tensor.nbytes for tensor in tensors)

    four_bits, fp32 = case.load(WIDE, quantize="nf4"), case.load(WIDE)
    assert layer_bytes(four_bits) == pytest.approx(layer_bytes(fp32) * (1 / 8 + 1 / 64), rel=0.02)
    assert torch.equal(four_bits.output_embedding(), fp32.output_embedding())


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_gradients_reach_the_adapters(case, dtype):
    gradients = []
    for quantize in ("nf4", "none"):
        backbone = case.load(WIDE, dtype, quantize=quantize)
        layout = lora_layout(FedavgLoraOptions(adapter_rank=2), backbone.model_type)
        shared = {
            spec.key: torch.from_numpy(initial_value(spec, run_seed=0, client_id=NO_CLIENT, name=spec.key))
            for spec in layout.travelling
        }
        bank = stack_clients(layout, shared, [{}] * 2, device=torch.device("cpu"), head_frame=None)
        attached = AttachedAdapter(layout, backbone.llama)
        batch = ChunkBatch(case.IDS_RT[:, :-1], case.IDS_RT[:, 1:], torch.full((2,), 40))
        with attached.use(bank):
            client_losses(backbone, bank, batch).sum().backward()
        ups = [bank[spec.name].grad.flatten() for spec in layout.tensors if spec.name.endswith("U")]
        gradients.append(torch.cat(ups).float())
        with torch.no_grad(), attached.use(bank):  # a pass without gradients after one with, and back
            client_losses(backbone, bank, batch)
    assert gradients[1].norm() > 0
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.95
