"""Every method, found by enumeration, learns on the embedded fleet within one small budget, and sends what docs say.

One worker runs all methods one after the other (`compare_with`) on rows with labels that the test writes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from heterotune.config.methods import METHODS

ADAPTER_RANK, HEAD_RANK, HEAD_BASIS, FEATURE_WIDTH = 2, 4, 8, 8
VOCABULARY = 2048
CLASSES = {"colour": "red blue green black", "animal": "cat dog horse bird", "number": "one two three four"}
OPTIONS = {"adapter_rank": ADAPTER_RANK, "targets": ["q_proj", "down_proj"]}
NUM_ROUNDS, CLIENTS_PER_TYPE = 2, 2
RUN = {
    "name": "learns",
    "seed": 5,
    "rounds": NUM_ROUNDS,
    "fleet": [
        {"name": "small", "model": "embedded:small", "clients": CLIENTS_PER_TYPE},
        {"name": "large-3q", "model": "embedded:large-3q", "clients": CLIENTS_PER_TYPE},
        {"name": "large-2q", "model": "embedded:large-2q", "clients": CLIENTS_PER_TYPE, "siblings_of": "large-3q"},
    ],
    "data": {
        "fields": {"text": "text", "label": "label"},
        "partition": {"by": "iid"},
        "max_tokens": 16,
        "heldout_fraction": 0.3,
    },
    "cohort": {"fraction": 1.0},
    "local": {"steps": 3, "batch_size": 4, "learning_rate": 1e-2},
    "strategy": "heterotune",
    "compare_with": [name for name in METHODS if name != "heterotune"],
    **{name: OPTIONS for name in METHODS if name != "fedavg_full"},
    "heterotune": {**OPTIONS, "head_rank": HEAD_RANK, "head_basis": HEAD_BASIS, "align_tokens": 256},
    "fedproto": {**OPTIONS, "feature_width": FEATURE_WIDTH},
    "backbone": {"ds_config": "none"},
    "chunk": {"clients": 2},
    "checkpoint": {"keep_best": False},
    "evaluate": {"every_rounds": NUM_ROUNDS, "max_rows": 12, "batch_size": 12},
    "tensorboard": False,
}


@dataclass(frozen=True)
class Shape:
    """What the formulas of docs/strategies.md need of a model type.

    Attributes:
        width: Hidden size.
        inner: Of the MLP.
        num_layers: Decoder layers.
        has_siblings: Whether another model type was cut from the same LLaMA.
    """

    width: int
    inner: int
    num_layers: int
    has_siblings: bool

    @property
    def lora(self) -> int:
        """L: the sum of r (d_in + d_out) over the target linears, q_proj and down_proj of every layer."""
        return self.num_layers * ADAPTER_RANK * ((self.width + self.width) + (self.inner + self.width))

    @property
    def up_half(self) -> int:
        """L_U: the sum of r d_out."""
        return self.num_layers * ADAPTER_RANK * (self.width + self.width)

    @property
    def parameters(self) -> int:
        """Of the whole model: 4 query heads, 2 of keys and values, SiLU, tied head."""
        attention = self.width * (2 * self.width + 2 * self.width // 2)
        layer = attention + 3 * self.width * self.inner + 2 * self.width
        return VOCABULARY * self.width + self.num_layers * layer + self.width


SHAPES = {
    "small": Shape(64, 176, 4, has_siblings=False),
    "large-3q": Shape(128, 352, 6, has_siblings=True),
    "large-2q": Shape(128, 352, 4, has_siblings=True),
}


def message(num_elements: int) -> int:
    """Bytes of one message: its header, and fp32."""
    return 32 + 4 * num_elements


Formula = Callable[[Shape], int]


def plain(shape: Shape) -> int:
    return message(shape.lora)


def whole_model(shape: Shape) -> int:
    """Blocks: attention and MLP of every layer, the embedding, and the last norm."""
    return 32 * (2 * shape.num_layers + 2) + 4 * shape.parameters


def factors_of_a_round(shape: Shape) -> int:
    """What changed weights cost: all U_k and V_k of the model type's clients in the round before."""
    return message(CLIENTS_PER_TYPE * shape.lora)


UP: Mapping[str, Formula] = dict.fromkeys(METHODS, plain) | {
    "heterotune": lambda shape: plain(shape) + message((HEAD_RANK + 1) * HEAD_BASIS),
    "fedavg_full": whole_model,
    "local_only": lambda shape: 0,
    "centralised": lambda shape: 0,
    "scaffold": lambda shape: 2 * plain(shape),
    "ffa_lora": lambda shape: message(shape.up_half),
    "inclusivefl": lambda shape: (64 if shape.has_siblings else 32) + 4 * shape.lora,
    "fedproto": lambda shape: message(len(CLASSES) * (FEATURE_WIDTH + 1)),
}
"""Method -> what a client sends in a round, and gets but for `LATER_DOWN`."""
LATER_DOWN: Mapping[str, Formula] = {
    "fedex_lora": lambda shape: plain(shape) + factors_of_a_round(shape),
    "flora": factors_of_a_round,
}
"""What a client gets after round 1 where that is something else; flora sends no LoRA down, in round 1 nothing."""
FIRST_DOWN: Mapping[str, Formula] = {
    "heterotune": lambda shape: (
        UP["heterotune"](shape) + message((HEAD_RANK + 1) * shape.width) + message(HEAD_BASIS * VOCABULARY)
    ),
    "flora": lambda shape: 0,
}
"""What a client gets in round 1: under heterotune the frozen frame V and mu, and the basis of the head besides."""


@pytest.fixture(scope="module")
def run(run_mpi, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("learns")
    rows = [
        {"text": f"{start} {number}: {word} is a", "label": label}
        for number in range(4)
        for start in ("say", "the", "here")
        for label, words in CLASSES.items()
        for word in words.split()
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    wanted = {**RUN, "data": {**RUN["data"], "source": str(folder / "rows.jsonl")}}
    (folder / "run.yaml").write_text(yaml.safe_dump(wanted))
    out = folder / "run"
    out.mkdir()
    arguments = ["-m", "heterotune.worker", folder / "run.yaml", "--run-dir", out]
    ended = run_mpi(arguments, num_ranks=1, limit_seconds=280, environment={"DS_ACCELERATOR": "cpu"})
    assert ended.returncode == 0, ended.output
    return out


def lines_of(run: Path, method: str, name: str) -> list[dict]:
    part = run if method == "heterotune" else run / "compare" / method
    return [json.loads(line) for line in (part / name).read_text().splitlines()]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", METHODS)
def test_the_held_out_loss_falls(run, method):
    metrics = lines_of(run, method, "metrics.jsonl")
    # There only where clients train what never leaves them: then a client's own model is what counts.
    is_personal = any(entry["name"] == "loss/personal" for entry in metrics)
    name = "loss/personal" if is_personal else "loss/eval"
    for model_type in SHAPES:
        of_round = {
            entry["round"]: entry["value"]
            for entry in metrics
            if entry["name"] == name and entry.get("model_type") == model_type
        }
        assert of_round[NUM_ROUNDS] < of_round[0], model_type


@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", METHODS)
def test_the_ledger_is_what_the_formula_says(run, method):
    """A full cohort in every round; clients that miss rounds are in test_product_methods.py and test_strategies.py."""
    found: Counter[tuple[int, int, str, str]] = Counter()
    for entry in lines_of(run, method, "ledger.jsonl"):
        found[entry["round"], entry["client"], entry["model_type"], entry["direction"]] += entry["bytes"]
    wanted: Counter[tuple[int, int, str, str]] = Counter()
    clients = [name for name in SHAPES for _ in range(CLIENTS_PER_TYPE)]
    for round_number in range(1, NUM_ROUNDS + 1):
        down = (FIRST_DOWN if round_number == 1 else LATER_DOWN).get(method, UP[method])
        for client, model_type in enumerate(clients):
            wanted[round_number, client, model_type, "up"] = UP[method](SHAPES[model_type])
            wanted[round_number, client, model_type, "down"] = down(SHAPES[model_type])
    assert +found == +wanted


def test_only_two_methods_send_nothing(run):
    """Else the comparison above were of nothing with nothing."""
    silent = {method for method in METHODS if not lines_of(run, method, "ledger.jsonl")}
    assert silent == {"local_only", "centralised"}
