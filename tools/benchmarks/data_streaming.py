"""What memory it takes to load, divide and tokenise corpora of growing size, with and without `data.streaming`.

    python tools/benchmarks/data_streaming.py            # up to 512 MB; writes docs/results/data_streaming.csv
    python tools/benchmarks/data_streaming.py --quick    # 2 and 4 MB: does everything still run?

Every case is a process of its own that makes the rows of 16 clients from generated JSONL and then draws 500 batches.
anonymous_peak_bytes: largest RssAnon of the process beyond what it had after its imports: memory that the system
cannot take back. resident_peak_bytes: largest RSS, mapped pages of files included, which the system takes back when
somebody needs memory. digest: of all rows; the same in both ways. Seconds include what `datasets` converts to Arrow.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(REPOSITORY / "engine")]

from tables import write_table  # noqa: E402

NUM_CLIENTS = 16
NUM_BATCHES = 500
SIZES_MB = (32, 128, 512)
LARGEST_IN_MEMORY_MB = 128
QUICK_SIZES_MB = (2, 4)
SAMPLE_SECONDS = 0.02


def main() -> int:
    """Measure all sizes. Returns the process's exit code."""
    options = _parse()
    if options.case is not None:
        print(json.dumps(measure(Path(options.case), streaming=options.streaming)))
        return 0
    sizes = QUICK_SIZES_MB if options.quick else SIZES_MB
    rows = []
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        for size in sizes:
            path = Path(scratch) / f"corpus-{size}.jsonl"
            write_corpus(path, size << 20)
            for streaming in (True, False):
                if streaming or size <= LARGEST_IN_MEMORY_MB:
                    rows.append({"corpus_mb": size, "streaming": streaming, **_in_process(path, streaming)})
                    print(rows[-1], flush=True)
            path.unlink()
    write_table(options.out / "data_streaming.csv", rows)
    return 0


def write_corpus(path: Path, num_bytes: int) -> None:
    """Write lines of an owner and about a kilobyte of made-up source code."""
    draw = random.Random(path.name)
    words = [f"{stem}_{number}" for stem in ("value", "index", "node", "path", "result") for number in range(200)]
    with path.open("w") as file:
        while file.tell() < num_bytes:
            lines = [f"    {draw.choice(words)} = {draw.choice(words)}({draw.choice(words)})\n" for _ in range(25)]
            row = {"owner": f"owner {draw.randrange(64)}", "text": f"def {draw.choice(words)}():\n" + "".join(lines)}
            file.write(json.dumps(row) + "\n")


def measure(path: Path, *, streaming: bool) -> dict[str, Any]:
    """Make the rows of one corpus in this process and draw batches from them."""
    import numpy as np

    from heterotune.config.data_options import DataConfig
    from heterotune.config.record_options import EvaluateConfig
    from heterotune.data.batches import batches
    from heterotune.data.overview import digest_of
    from heterotune.data.row_cache import federated_data
    from heterotune.data.text_tokenizer import load_tokenizer

    settings = {"source": str(path), "fields": {"text": "text"}, "partition": {"by": "natural", "key": "owner"}}
    data = DataConfig.model_validate({**settings, "streaming": streaming, "cache": str(path.parent / "cache")})
    tokenizer = load_tokenizer("embedded:small")
    import datasets  # noqa: F401

    before, peaks = resident_bytes(), {"anonymous": 0, "resident": 0}
    with _watching(peaks):
        began = time.monotonic()
        made = federated_data(data, EvaluateConfig(), tokenizer, ["small"] * NUM_CLIENTS, run_seed=1)
        seconds = time.monotonic() - began
        for number in range(NUM_BATCHES):
            rows = made.train[number % NUM_CLIENTS]
            picks = batches(rows, seed=1, round_number=number, client_id=0, batch_size=8, num_steps=1)
            assert rows.take(np.asarray(picks[0])).input_ids.shape == (8, data.max_tokens)
    return {
        "num_rows": sum(map(len, made.train)),
        "anonymous_peak_bytes": peaks["anonymous"] - before["anonymous"],
        "resident_peak_bytes": peaks["resident"],
        "seconds": round(seconds, 1),
        "digest": digest_of(made)[:16],
    }


def resident_bytes() -> dict[str, int]:
    """Return this process's resident memory: all of it, and what belongs to no file."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    names = {"anonymous": "RssAnon", "resident": "VmRSS"}
    return {name: int(status[key].split()[0]) * 1024 for name, key in names.items()}


class _watching:
    """Keeps the largest values while a block runs."""

    def __init__(self, peaks: dict[str, int]) -> None:
        self._peaks, self._done = peaks, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            for name, value in resident_bytes().items():
                self._peaks[name] = max(self._peaks[name], value)
            if self._done.wait(SAMPLE_SECONDS):
                return


def _in_process(path: Path, streaming: bool) -> dict[str, Any]:
    """Measure in a process of its own, with caches that it shares with nobody."""
    arguments = [sys.executable, __file__, "--case", str(path), *(["--streaming"] if streaming else [])]
    cache = path.parent / ("arrow-streaming" if streaming else "arrow")
    environment = {**os.environ, "HF_DATASETS_CACHE": str(cache)}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small corpora only")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "results", help="folder of the table")
    parser.add_argument(
        "--scratch", type=Path, default=None, help="folder for corpora and rows; the largest takes 4 GB"
    )
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--streaming", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
