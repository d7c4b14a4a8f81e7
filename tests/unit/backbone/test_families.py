"""Checkpoints of every family as plain replicas: losses are those of transformers, in every dtype."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from heterotune.backbone.load import DTYPES

CASE = Path(__file__).parents[2] / "multirank" / "cases" / "families.py"
NAMES = (
    "llama-1",
    "llama-3",
    "llama-3-old-spelling",
    "llama-3.2",
    "tinyllama",
    "smollm",
    "linear",
    "dynamic",
    "yarn",
    "biases",
    "mistral",
    "mistral-window",
)


@pytest.fixture
def case(load_file):
    return load_file(CASE)


def test_every_family_is_here(case):
    assert tuple(case.FAMILIES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_those_of_transformers(case, tmp_path, name):
    expected = case.write_family(name, tmp_path)
    backbone = case.load(tmp_path)
    torch.testing.assert_close(case.losses(backbone), expected, atol=1e-5, rtol=1e-5)
    names = dict(backbone.lm.named_parameters())  # a tied head is counted once
    assert backbone.model_type.num_parameters == sum(parameter.numel() for parameter in names.values())


def test_a_window_that_is_shorter_than_the_row_counts(case, tmp_path):
    with_window = case.write_family("mistral-window", tmp_path / "a")
    config = tmp_path / "a" / "config.json"
    config.write_text(config.read_text().replace('"sliding_window": 8', '"sliding_window": null'))
    without = case.losses(case.load(tmp_path / "a"))
    torch.testing.assert_close(without[:, :8], with_window[:, :8])
    assert not torch.allclose(without[:, 8:], with_window[:, 8:], atol=1e-3)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bf16", 0.06), ("fp16", 0.01)])
def test_half_precision_is_close(case, tmp_path, dtype, tolerance):
    expected = case.write_family("llama-3", tmp_path)
    backbone = case.load(tmp_path, dtype)
    assert {parameter.dtype for parameter in backbone.lm.parameters()} == {DTYPES[dtype]}
    assert backbone.llama.rotary_emb.inv_freq.dtype == torch.float32
    found = case.losses(backbone)
    assert 0 < (found - expected).abs().max() < tolerance
