"""Likelihood of answers, accuracy and greedy writing, against plain `transformers` on the same random LLaMA."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from heterotune.adapters.attach import AttachedAdapter
from heterotune.adapters.bank import stack_clients
from heterotune.adapters.lora import lora_layout
from heterotune.backbone.load import load_backbone, read_model
from heterotune.config.data_options import DataConfig
from heterotune.config.fleet_options import FleetEntry
from heterotune.config.method_options import FedavgLoraOptions
from heterotune.config.record_options import EvaluateConfig
from heterotune.data.clients_data import FederatedData
from heterotune.data.corpora import Document
from heterotune.data.questions import make_questions
from heterotune.data.text_tokenizer import load_tokenizer
from heterotune.data.tokenizing import IGNORED, Rows, make_rows
from heterotune.evaluation.answers import LABELS, PAIRS, likelihoods
from heterotune.evaluation.exact_match import write_on
from heterotune.evaluation.heldout import HeldoutEvaluation
from heterotune.evaluation.passes import common_passes
from heterotune.fleet.model_types import read_model_types
from heterotune.fleet.placement import Seat

CPU = torch.device("cpu")
MODEL = (
    "random:hidden_size=32,intermediate_size=48,num_hidden_layers=2,num_attention_heads=4,num_key_value_heads=2,"
    "vocab_size=4096,initializer_range=0.3,seed=4"
)
DATA = DataConfig(source="embedded:stdlib", max_tokens=48)
ASKED = (
    ("def f(x): return", (" x", " self", " None")),
    ("import os", ("\nimport sys\nimport re", " as o", "\nfrom pathlib import Path\n")),
    ("for i in range(10):", ("\n    print(i)", " pass")),
    ("class A", (" x", " self", " None")),
    ("while True", (" x", " import nothing at all")),
)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("embedded:small")


@pytest.fixture(scope="module")
def model_type():
    return read_model_types((FleetEntry(name="tiny", model=MODEL, clients=2),))[0]


@pytest.fixture(scope="module")
def backbone(model_type):
    return load_backbone(model_type, ds_config=None, dtype="fp32", checkpointing=False, device=CPU)


@pytest.fixture(scope="module")
def plain(model_type):
    return read_model(model_type, "fp32").eval()


@pytest.fixture(scope="module")
def untrained(model_type, backbone):
    """The backbone with adapters that change nothing: U is zero."""
    layout = lora_layout(FedavgLoraOptions(adapter_rank=2), model_type)
    zeros = {spec.key: torch.zeros(spec.shape) for spec in layout.travelling}
    attached = AttachedAdapter(layout, backbone.llama)
    yield attached, stack_clients(layout, zeros, [{}], device=CPU, head_frame=None)
    attached.detach()


def heldout_of(documents, tokenizer) -> FederatedData:
    rows = make_rows(documents, tokenizer, max_tokens=DATA.max_tokens)
    owners = np.arange(len(documents)) % 2
    return FederatedData((), rows, owners, (), (), heldout_documents=tuple(documents))


def plain_likelihood(plain, row_ids: list[int], answer_ids: list[int]) -> float:
    """Return the log-likelihood of an answer after a prompt, one token after the other."""
    with torch.no_grad():
        logits = plain(input_ids=torch.tensor([row_ids + answer_ids])).logits[0].double()
    log_p = torch.log_softmax(logits, dim=-1)
    return sum(log_p[len(row_ids) - 1 + i, token].item() for i, token in enumerate(answer_ids))


@pytest.mark.parametrize("how", ["sum", "mean"])
def test_the_likeliest_answer_is_that_of_plain_transformers(how, tokenizer, backbone, plain, untrained) -> None:
    attached, bank = untrained
    documents = [
        Document("o", prompt=p, response=choices[i % 2], choices=choices) for i, (p, choices) in enumerate(ASKED)
    ]
    data = heldout_of(documents, tokenizer)
    options = EvaluateConfig(metrics=("loss", "accuracy"), choice_score=how, batch_size=3)
    questions = make_questions(data, tokenizer, DATA, options)
    evaluation = HeldoutEvaluation(data, questions, options, [(0, 1)], CPU)
    scores = evaluation.score(backbone, attached, bank, Seat(0, 1))
    assert {probe.name for probe in evaluation.common} == {"loss", LABELS, PAIRS}
    assert questions.choices.label_questions == (0, 3), "one row each for questions with one-token answers"

    expected, right = [], []
    for document in documents:
        prompt = [tokenizer.eos_id, *tokenizer.encode(f"{document.prompt}\n")]
        answers = [tokenizer.encode(choice) for choice in document.choices]
        mine = [plain_likelihood(plain, prompt, answer) for answer in answers]
        expected += mine
        divided = mine if how == "sum" else [value / len(a) for value, a in zip(mine, answers, strict=True)]
        right.append(document.choices[int(np.argmax(divided))] == document.response)
    asked = [(p, [s for s in scores if s.probe == p.name]) for p in evaluation.common if p.name in (LABELS, PAIRS)]
    np.testing.assert_allclose(likelihoods(questions.choices, asked), expected, atol=2e-4)
    accuracy = {measure.full_name: measure for measure in evaluation.measures(0, scores)}["accuracy/eval"]
    assert accuracy.value == np.mean(right)
    assert accuracy.of_client == {0: np.mean(right[0::2]), 1: np.mean(right[1::2])}


def test_sum_and_mean_differ_on_these_questions(tokenizer, backbone, untrained) -> None:
    """Else the test above could not tell them apart."""
    attached, bank = untrained
    documents = [Document("o", prompt=p, response=choices[0], choices=choices) for p, choices in ASKED]
    data, found = heldout_of(documents, tokenizer), {}
    for how in ("sum", "mean"):
        options = EvaluateConfig(metrics=("loss", "accuracy"), choice_score=how)
        evaluation = HeldoutEvaluation(data, make_questions(data, tokenizer, DATA, options), options, [(0, 1)], CPU)
        measures = evaluation.measures(0, evaluation.score(backbone, attached, bank, Seat(0, 1)))
        found[how] = measures[1].value
    assert found["sum"] != found["mean"]


def generated(plain, prompt: list[int], eos_id: int, max_new_tokens: int) -> list[int]:
    ids = torch.tensor([prompt])
    options = {"max_new_tokens": max_new_tokens, "eos_token_id": eos_id, "pad_token_id": 0, "do_sample": False}
    written = plain.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist()
    return written[: written.index(eos_id)] if eos_id in written else written


def test_greedy_writing_is_that_of_generate(tokenizer, backbone, plain, untrained) -> None:
    attached, bank = untrained
    prompts = [tokenizer.encode(prompt) for prompt, _ in ASKED]
    eos_id = generated(plain, prompts[1], 4095, 6)[3]  # so that one row ends early, and others do not
    rows = _prompt_rows(prompts)
    for row_pass in common_passes(rows, 3, CPU):
        with attached.use(bank):
            found = write_on(backbone, bank, row_pass.batch, ends=[eos_id], max_new_tokens=6)
        assert found == [generated(plain, prompts[row], eos_id, 6) for row in row_pass.rows]
    assert len(generated(plain, prompts[1], eos_id, 6)) <= 3


def test_exact_match_is_the_share_of_responses_that_generate_writes(tokenizer, backbone, plain, untrained) -> None:
    attached, bank = untrained
    documents = [Document("o", prompt=prompt, response="?") for prompt, _ in ASKED]
    for i in (0, 3):  # these the model gets right
        prompt = [tokenizer.eos_id, *tokenizer.encode(f"{documents[i].prompt}\n")]
        text = tokenizer.decode(generated(plain, prompt, tokenizer.eos_id, 4))
        documents[i] = dataclasses.replace(documents[i], response=f" {text.strip()}\n")
    data = heldout_of(documents, tokenizer)
    options = EvaluateConfig(metrics=("loss", "exact_match"), max_new_tokens=4, batch_size=2)
    evaluation = HeldoutEvaluation(data, make_questions(data, tokenizer, DATA, options), options, [(0, 1)], CPU)
    measures = evaluation.measures(0, evaluation.score(backbone, attached, bank, Seat(0, 1)))
    found = {measure.full_name: measure for measure in measures}["exact_match/eval"]
    assert found.value == 2 / 5
    assert found.of_client == {0: 1 / 3, 1: 1 / 2}


def _prompt_rows(prompts: list[list[int]]) -> Rows:
    width = max(map(len, prompts))
    ids, targets = np.zeros((len(prompts), width), dtype=np.int64), np.full((len(prompts), width), IGNORED)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt
        targets[row, len(prompt) - 1] = 0
    return Rows(ids, targets, np.array([len(prompt) for prompt in prompts]))
