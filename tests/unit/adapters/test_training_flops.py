"""The operations of local training against torch's own count of them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from heterotune.adapters.tables import adapter_layout
from heterotune.adapters.training_flops import branch_elements, causal_pairs, training_cost
from heterotune.config.load import parse_run
from heterotune.fleet.model_source import describe_model
from heterotune.fleet.model_types import read_model_types

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
MODEL = "random:" + ",".join(f"{key}={value}" for key, value in SHAPE.items()) + ",tie_word_embeddings=false"
ROWS, LENGTH = 2, 24
MARGIN = 0.005  # torch also counts the rotary embedding's small products


def cost_under(strategy: str, *, checkpointing: bool = False, **options):
    run = {
        "name": "trial",
        "rounds": 1,
        "fleet": [{"name": "tiny", "model": MODEL, "clients": 2}],
        "data": {"source": "embedded:stdlib"},
        "strategy": strategy,
        strategy: options,
    }
    config = parse_run(run)
    model_types = read_model_types(config.fleet, describe_model)
    layout = adapter_layout(strategy, config, model_types[0], model_types)
    return training_cost(model_types[0], layout, checkpointing=checkpointing), layout, model_types[0]


def counted(model: torch.nn.Module) -> int:
    """What torch counts of a forward and a backward pass; it counts masked scores too."""
    ids = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH) % SHAPE["vocab_size"]
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids).logits.float().square().mean().backward()
    return counter.get_total_flops()


@pytest.fixture
def llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=False, attn_implementation="eager"))


def test_lora_beside_a_frozen_llama(llama):
    linears = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    expected = counted(get_peft_model(llama, LoraConfig(r=4, target_modules=linears)))
    cost, layout, _ = cost_under("fedavg_lora", adapter_rank=4)
    assert cost.flops(num_tokens=ROWS * LENGTH, num_pairs=ROWS * LENGTH**2) == pytest.approx(expected, rel=MARGIN)
    assert branch_elements(layout) == sum(spec.num_elements for spec in layout.tensors)


def test_a_whole_model(llama):
    cost, _, _ = cost_under("fedavg_full")
    expected = counted(llama)
    assert cost.flops(num_tokens=ROWS * LENGTH, num_pairs=ROWS * LENGTH**2) == pytest.approx(expected, rel=MARGIN)


def test_a_token_sees_those_before_it_and_itself():
    assert causal_pairs([]) == 0
    assert causal_pairs([1, 3]) == 1 + 6


def test_checkpointing_computes_the_layers_forward_pass_again():
    plain, layout, llama = cost_under("fedavg_lora")
    again, _, _ = cost_under("fedavg_lora", checkpointing=True)
    linears = llama.num_layers * sum(rows * columns for rows, columns in llama.linear_shapes.values())
    assert again.flops_per_token - plain.flops_per_token == 2 * (linears + branch_elements(layout))
    assert 3 * again.flops_per_pair == 4 * plain.flops_per_pair == 4 * 12 * llama.num_layers * SHAPE["hidden_size"]


def test_what_does_not_train_has_no_gradient_of_its_own():
    trained, layout, _ = cost_under("fedavg_lora")
    frozen, _, _ = cost_under("ffa_lora")
    downs = sum(spec.num_elements for spec in layout.tensors if spec.name in {each.down for each in layout.branches})
    assert trained.flops_per_token - frozen.flops_per_token == 2 * downs


def test_a_branch_at_the_head_costs_its_matrices():
    """V and Q are frozen, S trains; nothing is below V where layers have no branches."""
    cost, layout, llama = cost_under("heterotune", adapter_rank=2, head_rank=4, head_basis=16)
    without = training_cost(llama, dataclasses.replace(layout, head=None))
    rows, basis, vocab = layout.head.head_rank + 1, layout.head.basis_rank, SHAPE["vocab_size"]
    head = 4 * rows * SHAPE["hidden_size"] + 6 * rows * basis + 4 * basis * vocab
    assert cost.flops_per_token - without.flops_per_token == head
    alone = training_cost(llama, dataclasses.replace(layout, branches=()))
    linears = llama.num_layers * sum(rows * columns for rows, columns in llama.linear_shapes.values())
    lowest = 2 * linears + 2 * SHAPE["hidden_size"] * vocab  # forward only
    assert alone.flops_per_token == lowest + 2 * rows * SHAPE["hidden_size"] + 4 * rows * basis + 4 * basis * vocab
