"""Host memory of a rank while a model is loaded, beside what it keeps: the issue's limit is 1.3 shards and one file.

    python tools/benchmarks/loading.py               # about 3 minutes; writes docs/results/loading.csv
    python tools/benchmarks/loading.py --quick       # a small model: does everything still run?

A checkpoint with random weights in several files is written first. Every measurement is a job of fresh processes: ranks
load a tiny model, so that libraries are there; then the resident peak (VmHWM) is reset and the model is loaded. `added`
is that peak less what the rank had before, of the rank where it is largest; the pages of files that are mapped count.
For drawn weights, which have no file, the limit is 1.3 shards and the largest block.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(REPOSITORY / "engine")]

from ranks import join_zero3, open_ranks, run_worker  # noqa: E402
from tables import write_table  # noqa: E402

SHAPE = "hidden_size=1024,intermediate_size=2816,num_hidden_layers=8,num_attention_heads=16,num_key_value_heads=8"
SHAPE += ",vocab_size=16384,tie_word_embeddings=false"
SMALL_SHAPE = "hidden_size=128,intermediate_size=256,num_hidden_layers=4,num_attention_heads=4,vocab_size=2048"
TINY = "random:hidden_size=16,intermediate_size=24,num_hidden_layers=1,num_attention_heads=2,vocab_size=64"
FILE_SIZE = "120MB"
NUM_RANKS = (1, 2, 4)
LIMIT = 1.3


def main() -> int:
    """Run the measurements. Returns the process's exit code."""
    options = _parse()
    if options.measure:
        answer = measure(options.arguments[0], options.arguments[1])
        if options.answer is not None and answer is not None:
            options.answer.write_text(json.dumps(answer))
        return 0
    shape = SMALL_SHAPE if options.quick else SHAPE
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(f"random:{shape}", Path(folder))
        rows = [
            run_worker(Path(__file__), ["--measure", "1", ds_config, model], num_ranks=num_ranks) | {"model": name}
            for ds_config in ("zero3_cpu", "none")
            for name, model in (("files", folder), ("random", f"random:{shape}"))
            for num_ranks in (NUM_RANKS[:2] if options.quick else NUM_RANKS)
        ]
    rows = [{"model": row.pop("model"), **row} for row in rows]
    write_table(options.out / "loading.csv", rows)
    print(*(json.dumps(row) for row in rows), sep="\n", flush=True)
    return 0


def write_checkpoint(model: str, folder: Path) -> None:
    """Write a model's random weights in float32 as several files with an index."""
    from heterotune.backbone.load import read_model

    read_model(_model_types(model)[0], "fp32").save_pretrained(folder, max_shard_size=FILE_SIZE)
    gc.collect()


def measure(ds_config: str, model: str) -> dict[str, Any] | None:
    """Load a model on all ranks and return the figures of the rank with the largest peak, at the root."""
    import torch

    from heterotune.backbone.mapped import give_back_memory
    from heterotune.config.schema import RunConfig
    from heterotune.federation import load_backbones
    from heterotune.fleet.placement import spread
    from heterotune.profiling.memory import ResidentPeak
    from heterotune.profiling.process_memory import status_bytes

    channel, cpu = open_ranks(), torch.device("cpu")
    if ds_config != "none":
        join_zero3(channel)
    fleet = [{"name": "m", "model": model, "clients": 1}]
    values = {"name": "loading", "rounds": 1, "fleet": fleet, "data": {"source": "embedded:stdlib"}}
    config = RunConfig.model_validate({**values, "backbone": {"ds_config": ds_config}})
    with tempfile.TemporaryDirectory() as scratch:
        scratch = channel.broadcast_bytes(scratch.encode()).decode()
        placement = spread(1, channel.num_ranks)
        load_backbones(_model_types(TINY), config, channel, cpu, Path(scratch), placement)
        give_back_memory()
        channel.barrier()
        before_bytes = status_bytes()["VmRSS"]
        peak = ResidentPeak()
        peak.start()
        backbone = load_backbones(_model_types(model), config, channel, cpu, Path(scratch), placement)[0]
        added_bytes = peak.stop() - before_bytes
    gathered = channel.gather_bytes(added_bytes.to_bytes(8, "little", signed=True))
    if gathered is None:
        return None
    model_bytes = 4 * backbone.model_type.num_parameters
    sizes = {weight.path.stat().st_size for weight in backbone.model_type.source.weights.values()}
    file_bytes, block_bytes = max(sizes, default=0), _largest_block_bytes(backbone.model_type)
    shard_bytes = -(-model_bytes // channel.num_ranks) if ds_config != "none" else model_bytes
    limit_bytes = round(LIMIT * shard_bytes) + (file_bytes or block_bytes)
    peaks = [int.from_bytes(part, "little", signed=True) for part in gathered]
    return {
        "ds_config": ds_config,
        "num_ranks": channel.num_ranks,
        "model_bytes": model_bytes,
        "num_files": len(sizes),
        "file_bytes": file_bytes,
        "block_bytes": block_bytes,
        "shard_bytes": shard_bytes,
        "added_peak_bytes": max(peaks),
        "least_added_peak_bytes": min(peaks),
        "limit_bytes": limit_bytes,
        "peak_over_limit": round(max(peaks) / limit_bytes, 3),
    }


def _largest_block_bytes(model_type: Any) -> int:
    """Return the bytes in float32 of the embedding or of a layer, whichever is larger."""
    from heterotune.fleet.parameter_shapes import num_layer_elements

    layer = num_layer_elements(model_type.source.llama, model_type.linear_shapes)
    return 4 * max(layer, model_type.vocab_size * model_type.width)


def _model_types(model: str) -> Any:
    from heterotune.config.fleet_options import FleetEntry
    from heterotune.fleet.model_types import read_model_types

    return read_model_types((FleetEntry(name="m", model=model, clients=1),))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "results", help="where the table goes")
    parser.add_argument("--quick", action="store_true", help="a small model, and fewer ranks")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
