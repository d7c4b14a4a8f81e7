"""What the headline experiment measures beside runs: an empty process, and plain PyTorch fine-tuning of one client."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "engine")]

import deepspeed  # noqa: E402, F401
import torch  # noqa: E402

import heterotune.runner  # noqa: E402, F401
from heterotune.backbone.load import pick_dtype, read_model  # noqa: E402
from heterotune.config.load import load_run  # noqa: E402
from heterotune.fleet.chunks import Chunk  # noqa: E402
from heterotune.preflight import check  # noqa: E402
from heterotune.profiling.memory import ResidentPeak  # noqa: E402
from heterotune.training.chunk_batches import prepare_chunk, steps_of  # noqa: E402
from heterotune.training.reference import train_full_model  # noqa: E402


def runtime() -> dict[str, Any]:
    """Measure a process that has loaded what a rank loads, and nothing else."""
    peak_bytes = ResidentPeak(sampled=False).stop()
    return {"peaks": {"host_resident": {"all": peak_bytes, "train": peak_bytes}}}


def plain_full(run_file: str, model_type_name: str, *overrides: str) -> dict[str, Any]:
    """Measure one client of a model type that fine-tunes its whole model as anybody would, without heterotune's engine.

    Args:
        run_file: The federation; the client is the model type's first, its batches those of round 1.
        model_type_name: Which model.
        overrides: `key=value`.
    """
    total, train = ResidentPeak(sampled=False), ResidentPeak()
    config = load_run(Path(run_file), overrides)
    checked = check(config)
    model_type = next(each for each in checked.model_types if each.name == model_type_name)
    client = checked.population.client(checked.population.ids_of(model_type.index)[0])
    chunk = Chunk(client.model_type, (client,), (steps_of(client.num_rows, config.local),))
    prepared = prepare_chunk(chunk, checked.data.train, config.local, run_seed=config.seed, round_number=1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lm = read_model(model_type, pick_dtype(config.backbone.dtype)).to(device)
    if config.backbone.checkpointing:
        lm.train()
        lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    batches = [(batch.input_ids_RT, batch.targets_RT) for batch in prepared.batches(device)]
    before_bytes, started = total.stop(), time.perf_counter()
    train.start()
    train_full_model(lm, batches, config.local)
    train_bytes, seconds = train.stop(), time.perf_counter() - started
    peaks = {"host_resident": {"all": max(before_bytes, train_bytes), "train": train_bytes}}
    if device.type == "cuda":
        for kind, peak in (
            ("device_allocated", torch.cuda.max_memory_allocated),
            (
                "device_reserved",
                torch.cuda.max_memory_reserved,
            ),
        ):
            peaks[kind] = {"all": peak(), "train": peak()}
    return {"peaks": peaks, "seconds": seconds}


def main() -> None:
    """Make one measurement and write it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("case", choices=["runtime", "plain_full"])
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--answer", type=Path, required=True)
    options = parser.parse_args()
    answer = {"runtime": runtime, "plain_full": plain_full}[options.case](*options.arguments)
    options.answer.write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
