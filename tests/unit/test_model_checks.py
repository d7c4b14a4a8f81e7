"""What of a fleet's models does not fit the run, before any rank starts."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest

from heterotune.config.load import parse_run
from heterotune.config.schema import RunConfig
from heterotune.errors import ConfigError
from heterotune.fleet.model_types import read_model_types
from heterotune.model_checks import model_problems, tokenizer_problems

DIGESTS = ("a" * 64, "b" * 64)


def config(**changes: object) -> RunConfig:
    fleet = [{"name": name, "model": f"embedded:{name}", "clients": 6} for name in ("small", "large")]
    return parse_run({"name": "tiny", "rounds": 4, "fleet": fleet, "data": {"source": "embedded:stdlib"}, **changes})


@pytest.mark.parametrize("strategy", ["fedavg_lora", "fedavg_full", "heterotune"])
def test_methods_that_share_within_a_type_only_take_two_tokenizers(strategy: str) -> None:
    chosen = config(strategy=strategy, heterotune={"head_rank": 0})
    assert tokenizer_problems(chosen, read_model_types(chosen.fleet), DIGESTS) == []


def test_a_shared_head_needs_one_tokenizer() -> None:
    chosen = config(strategy="fedavg_lora", compare_with=["heterotune"])
    fleet = read_model_types(chosen.fleet)
    assert tokenizer_problems(chosen, fleet, DIGESTS[:1] * 2) == []
    (problem,) = tokenizer_problems(chosen, fleet, DIGESTS)
    assert problem.startswith("strategy heterotune shares fleet/head")
    assert "(small aaaaaaaa, large bbbbbbbb), so they share no output space" in problem
    assert "set heterotune.head_rank to 0 and remove siblings_of, or use a method" in problem


def test_dynamic_rope_takes_no_rows_that_change_it() -> None:
    def fleet(rope: dict[str, object]) -> tuple[SimpleNamespace, ...]:
        source = SimpleNamespace(llama={"model_type": "llama", "max_position_embeddings": 64, **rope})
        return (SimpleNamespace(name="small", source=source),)

    chosen = config(strategy="fedavg_lora", data={"source": "embedded:stdlib", "max_tokens": 65})
    told = "data.max_tokens = 65 is more than the 64 positions up to which the dynamic RoPE scaling of small"
    for spelling in ({"rope_scaling": {"type": "dynamic"}}, {"rope_parameters": {"rope_type": "dynamic"}}):
        (problem,) = model_problems(chosen, fleet(spelling))
        assert problem.startswith(told)
        short = config(strategy="fedavg_lora", data={"source": "embedded:stdlib", "max_tokens": 64})
        assert model_problems(short, fleet(spelling)) == []
    assert model_problems(chosen, fleet({"rope_scaling": None})) == []
    assert model_problems(chosen, fleet({"rope_scaling": {"rope_type": "yarn"}})) == []


def quantized(**changes: object) -> RunConfig:
    return config(backbone={"ds_config": "none", "quantize": "nf4"}, **changes)


def test_4_bits_take_adapters_only(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = quantized()
    fleet = read_model_types(chosen.fleet)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert model_problems(chosen, fleet) == []
    (problem,) = model_problems(quantized(compare_with=["fedavg_full"]), fleet)
    assert problem.startswith("strategy fedavg_full trains the weights themselves, which 4 bits cannot hold.")


def test_4_bits_need_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (problem,) = model_problems(quantized(), read_model_types(quantized().fleet))
    assert "backbone.quantize = nf4 needs bitsandbytes, which is not installed here" in problem
    assert "pip install 'heterotune[bnb]'" in problem


def test_4_bits_are_not_sharded() -> None:
    with pytest.raises(ConfigError, match=r"quantize = fp4 is for plain replicas, but ds_config = zero3_cpu shards"):
        config(backbone={"quantize": "fp4"})
