"""What each codec of the wire makes of real updates: its bytes, its error, its speed.

    python tools/benchmarks/wire.py           # about a minute; writes docs/results/wire.csv
    python tools/benchmarks/wire.py --quick   # less to encode: does everything still run?

The updates are those of the second round of the demo's fleet (launch/runs/demo.yaml) with a quarter of its clients in
one process: in the first round half of a LoRA does not move. Bytes are whole messages, headers included, against the
same updates in fp32. The error is |arrived - meant| / |meant| over all updates of one round; topk sends the rest in
later rounds. Speed is that of one core on one long message, in bytes of float32 a second, the median of runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(REPOSITORY / "engine")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from tables import write_table  # noqa: E402

from heterotune import preflight  # noqa: E402
from heterotune.collective.single import SingleChannel  # noqa: E402
from heterotune.collective.wire import decode, encode  # noqa: E402
from heterotune.config.load import load_run  # noqa: E402
from heterotune.federation import Federation, load_backbones  # noqa: E402
from heterotune.fleet.placement import spread  # noqa: E402
from heterotune.journal import Journal  # noqa: E402
from heterotune.randomness import generator  # noqa: E402
from heterotune.run_folder import RunFolder  # noqa: E402
from heterotune.simulation import Simulation  # noqa: E402
from heterotune.strategies import make_strategy  # noqa: E402

SETTINGS = ("backbone.ds_config=none", "cohort.fraction=0.25", "local.steps=5", "rounds=2", "compare_with=[]")
CODECS = (("fp32", None), ("bf16", None), ("int8", None), ("topk", 0.1), ("topk", 0.01))
LONG_ELEMENTS = 16 << 20
QUICK_ELEMENTS = 1 << 20
NUM_RUNS = 5


def main() -> int:
    """Measure all codecs. Returns the process's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "results", help="folder for the table")
    parser.add_argument("--quick", action="store_true", help="less to encode")
    options = parser.parse_args()
    torch.set_num_threads(1)
    updates = demo_updates()
    long = np.resize(np.concatenate(updates), QUICK_ELEMENTS if options.quick else LONG_ELEMENTS)
    rows = [codec_row(updates, long, codec, share) for codec, share in CODECS]
    num_elements = sum(update.size for update in updates)
    write_table(options.out / "wire.csv", rows, [f"{len(updates)} tensor groups of clients, {num_elements} elements"])
    print(*(json.dumps(row) for row in rows), sep="\n")
    return 0


def demo_updates() -> list[np.ndarray]:
    """Return what every client of a round sends, one array a tensor group."""
    channel, device = SingleChannel(), torch.device("cpu")
    checked = preflight.check(load_run(REPOSITORY / "launch" / "runs" / "demo.yaml", SETTINGS))
    names = [model_type.name for model_type in checked.model_types]
    placement = spread(len(names), channel.num_ranks)
    updates: list[np.ndarray] = []
    with tempfile.TemporaryDirectory() as scratch:
        journal = Journal(RunFolder.open(scratch), channel, names, checked.config.strategy, checked.config.rounds)
        federation = Federation(
            config=checked.config,
            channel=channel,
            model_types=checked.model_types,
            population=checked.population,
            data=checked.data,
            public=checked.public,
            placement=placement,
            backbones=load_backbones(checked.model_types, checked.config, channel, device, Path(scratch), placement),
            device=device,
        )
        simulation = Simulation(federation, make_strategy(checked.config.strategy, checked.config), journal)
        simulation.chunk_clients = dict.fromkeys(range(len(names)), 2)
        simulation.run_round(1)

        def keep(plan, trained, downlink, checks, intake) -> None:
            layout = simulation.layouts[trained.chunk.model_type]
            for update_P in trained.update_KP:
                updates.extend(update_P[columns].numpy().copy() for columns in layout.group_columns.values())

        simulation.training.send = keep  # instead of sending
        simulation.train(simulation.plan(2))
    return updates


def codec_row(updates: list[np.ndarray], long: np.ndarray, codec: str, share: float | None) -> dict[str, object]:
    """Return a codec's row of the table."""
    num_bytes = fp32_bytes = 0
    lost = whole = 0.0
    for number, update in enumerate(updates):
        message = encode(update, codec, generator(0, 2, number, "wire"), topk_share=share)
        num_bytes, fp32_bytes = num_bytes + len(message), fp32_bytes + len(encode(update))
        lost += float(np.sum((decode(message, update.size).astype(np.float64) - update) ** 2))
        whole += float(np.sum(update.astype(np.float64) ** 2))
    encode_seconds, decode_seconds = seconds_of(long, codec, share)
    return {
        "codec": codec if share is None else f"{codec} {share:g}",
        "bytes_of_fp32": f"{num_bytes / fp32_bytes:.4f}",
        "relative_error": f"{(lost / whole) ** 0.5:.2e}",
        "encode_gb_per_second": f"{long.nbytes / encode_seconds / 1e9:.2f}",
        "decode_gb_per_second": f"{long.nbytes / decode_seconds / 1e9:.2f}",
    }


def seconds_of(long: np.ndarray, codec: str, share: float | None) -> tuple[float, float]:
    """Return the median seconds of encoding and of decoding."""
    encoding, decoding = [], []
    for number in range(NUM_RUNS):
        draw = generator(0, number, 0, "wire")
        started = time.perf_counter()
        message = encode(long, codec, draw, topk_share=share)
        encoding.append(time.perf_counter() - started)
        started = time.perf_counter()
        decode(message, long.size)
        decoding.append(time.perf_counter() - started)
    return statistics.median(encoding), statistics.median(decoding)


if __name__ == "__main__":
    sys.exit(main())
