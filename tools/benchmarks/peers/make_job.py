"""Writes a job with the engine's own functions, so that it is what heterotune itself draws from the same run file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from job import Job
from training_pass import random_model

from heterotune.backbone.load import load_backbone
from heterotune.config.load import load_run
from heterotune.config.schema import RunConfig
from heterotune.data.batches import batches
from heterotune.fleet.clients import sample_cohort
from heterotune.preflight import CheckedRun, check
from heterotune.server import GlobalAdapters
from heterotune.strategies import make_strategy

MODEL_TYPE = "llama"
_LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz"))


@dataclass(frozen=True)
class Work:
    """What is trained: the shapes of a job.

    Attributes:
        model: The fleet's `random:` model.
        num_tokens: Tokens per row.
        batch_size: Rows per step.
        num_clients: Clients of the fleet.
        cohort_size: Clients of a round.
        num_rows: Training rows of each client.
        num_steps: Local steps.
        adapter_rank: LoRA rank on q and v.
        learning_rate: Of the clients' SGD. At 1.0 the job is chaotic: on 1 and on 2 threads the bare loop itself ends
            9e-4 of what was learned apart after 32 rounds, at 0.2 within 1e-6.
    """

    model: str
    num_tokens: int
    batch_size: int
    num_clients: int = 64
    cohort_size: int = 16
    num_rows: int = 16
    num_steps: int = 2
    adapter_rank: int = 8
    learning_rate: float = 0.2


WORKS = {
    "A": Work(random_model(256, num_layers=4, vocab_size=2048), num_tokens=64, batch_size=4),
    "B": Work(random_model(64, num_layers=4, vocab_size=2048), num_tokens=32, batch_size=1),
}


def write_run_file(folder: Path, work: Work, *, num_rounds: int, chunk_clients: int | str) -> Path:
    """Write a text for every client and the run file that trains on it. Returns the run file.

    Args:
        folder: Exists.
        work: Shapes.
        num_rounds: Rounds.
        chunk_clients: `chunk.clients` of the run file: a number or "auto".
    """
    text_file = folder / "text.jsonl"
    lines = [json.dumps({"client": f"{k:06d}", "text": _text(k, work)}) for k in range(work.num_clients)]
    text_file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    run = {
        "name": "peers",
        "seed": 1,
        "rounds": num_rounds,
        "output": str(folder / "runs"),
        "fleet": [{"name": MODEL_TYPE, "model": work.model, "clients": work.num_clients}],
        "data": {
            "source": str(text_file),
            "fields": {"text": "text"},
            "partition": {"by": "natural", "key": "client"},
            "max_tokens": work.num_tokens,
            "max_rows_per_client": work.num_rows,
        },
        "cohort": {"clients": work.cohort_size},
        "local": {
            "steps": work.num_steps,
            "batch_size": work.batch_size,
            "optimizer": "sgd",
            "learning_rate": work.learning_rate,
            "clip_norm": None,
        },
        "strategy": "fedavg_lora",
        "fedavg_lora": {"adapter_rank": work.adapter_rank, "adapter_alpha": 16.0, "targets": ["q_proj", "v_proj"]},
        "backbone": {"ds_config": "none", "dtype": "fp32"},
        "chunk": {"clients": chunk_clients},
        "checkpoint": {"every_rounds": 0},  # the peers keep none
        "evaluate": {"every_rounds": num_rounds, "max_rows": 16},
    }
    run_file = folder / "run.yaml"
    run_file.write_text(yaml.safe_dump(run, sort_keys=False), encoding="utf-8")
    return run_file


def make_job(run_file: Path) -> Job:
    """Return the job of a run file that `write_run_file` wrote."""
    config = load_run(run_file)
    checked = check(config)
    rows = checked.data.train
    num_rows = config.data.max_rows_per_client
    if any(len(part) != num_rows or (part.lengths < config.data.max_tokens).any() for part in rows):
        raise ValueError(f"a client has not {num_rows} full rows; the generated text is too short")
    cohorts_RC, picks_RCSB = _draws(config, checked)
    options = config.fedavg_lora
    return Job(
        about={
            "llama": {key: value for key, value in checked.model_types[0].source.llama.items() if key != "model_type"},
            "lora_scale": options.adapter_alpha / options.adapter_rank,
            "learning_rate": config.local.learning_rate,
            "run_seed": config.seed,
        },
        input_ids_NMT=np.stack([part.input_ids for part in rows]),
        targets_NMT=np.stack([part.targets for part in rows]),
        cohorts_RC=cohorts_RC,
        picks_RCSB=picks_RCSB,
        weights=_weights(checked),
        lora=engine_lora(_first_lora(config, checked)),
    )


def engine_lora(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Rename the engine's adapter tensors ("layers.0.self_attn.q_proj.lora.U") to the job's."""
    return {name.replace(".lora.", "."): tensor.numpy() for name, tensor in tensors.items()}


def _text(client: int, work: Work) -> str:
    """Return words of random letters: enough tokens for the training rows and the held-out ones."""
    draw = np.random.default_rng([1, client])
    num_words = 2 * (work.num_rows + 4) * work.num_tokens  # a word is at least one token
    return " ".join("".join(draw.choice(_LETTERS, size=length)) for length in draw.integers(2, 8, size=num_words))


def _draws(config: RunConfig, checked: CheckedRun) -> tuple[np.ndarray, np.ndarray]:
    """Return the cohorts (R, C) and the row numbers (R, C, S, B) of all rounds."""
    cohorts, picks = [], []
    for round_number in range(1, config.rounds + 1):
        cohort = sample_cohort(checked.population, config.cohort, run_seed=config.seed, round_number=round_number)
        cohorts.append([client.client_id for client in cohort])
        picks.append(
            [
                batches(
                    checked.data.train[client.client_id],
                    seed=config.seed,
                    round_number=round_number,
                    client_id=client.client_id,
                    batch_size=config.local.batch_size,
                    num_steps=config.local.steps,
                )
                for client in cohort
            ]
        )
    return np.array(cohorts, dtype=np.int64), np.array(picks, dtype=np.int64)


def _weights(checked: CheckedRun) -> dict[str, np.ndarray]:
    """Return the weights that the engine's loader makes, under the names of `LlamaForCausalLM`."""
    backbone = load_backbone(
        checked.model_types[0], ds_config=None, dtype="fp32", checkpointing=False, device=torch.device("cpu")
    )
    weights = {f"model.{name}": tensor.numpy() for name, tensor in backbone.llama.state_dict().items()}
    return weights | {"lm_head.weight": backbone.lm.head.weight.numpy()}


def _first_lora(config: RunConfig, checked: CheckedRun) -> dict[str, torch.Tensor]:
    """Return the first values of the adapter that the clients share."""
    layout = make_strategy(config.strategy, config).layout(checked.model_types[0], checked.model_types)
    return GlobalAdapters([layout], run_seed=config.seed).of_model_type(0)
