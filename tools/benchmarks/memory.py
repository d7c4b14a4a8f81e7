"""Host memory: of the loss, of activation checkpointing, of a client, and of a backbone that several ranks share.

    python tools/benchmarks/memory.py                # about 3 minutes; writes docs/results/memory_*.csv
    python tools/benchmarks/memory.py --quick        # smaller counts: does everything still run?

Every measurement is a fresh process. `loss` and `checkpointing`: the resident peak (VmHWM) that one training pass adds
to what the process had before. `client`: what K clients add. A client of the fleet that is not in the present chunk
costs its data, and its own tensors are a file; a client of a chunk costs five arrays of its adapter's size (values,
gradient, values at the start, two AdamW moments); what only a step or a pass needs is listed beside that. `backbone`:
what loading one adds to the node, the sum of all ranks' proportional set sizes (PSS).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(REPOSITORY / "engine")]

from ranks import run_worker  # noqa: E402
from tables import write_table  # noqa: E402

NUM_PROCESSES = 3
FLEET_CLIENTS = (1, 64, 1024)
QUICK_CLIENTS = (1, 16)
NUM_RANKS = (1, 2, 4)


def main() -> int:
    """Run the measurements. Returns the process's exit code."""
    options = _parse()
    if options.measure:
        import memory_cases

        answer = getattr(memory_cases, options.measure)(*options.arguments)
        if options.answer is not None and answer is not None:
            options.answer.write_text(json.dumps(answer))
        return 0
    for table, rows_of in TABLES.items():
        if options.only in (None, table):
            rows = rows_of(options.quick)
            write_table(options.out / f"memory_{table}.csv", rows)
            print(table, *(json.dumps(row) for row in rows), sep="\n", flush=True)
    return 0


def loss_rows(quick: bool) -> list[dict[str, object]]:
    """Return peak and seconds of a training pass with all logits in memory and with the engine's loss."""
    return [_median_of_processes("loss_pass", [loss], quick) for loss in ("whole_logits", "head_loss")]


def checkpointing_rows(quick: bool) -> list[dict[str, object]]:
    """Return peak and seconds of a training pass with and without activation checkpointing."""
    return [_median_of_processes("checkpointing_pass", [switch], quick) for switch in ("off", "on")]


def client_rows(quick: bool) -> list[dict[str, object]]:
    """Return what clients add, in the fleet and in a chunk."""
    counts = QUICK_CLIENTS if quick else FLEET_CLIENTS
    return [_measure("clients", [where, str(count)], num_ranks=1) for where in ("fleet", "chunk") for count in counts]


def backbone_rows(quick: bool) -> list[dict[str, object]]:
    """Return what a plain backbone adds to the node's memory on 1, 2 and 4 ranks."""
    return [
        _measure("shared_backbone", [], num_ranks=num_ranks) for num_ranks in (NUM_RANKS[:2] if quick else NUM_RANKS)
    ]


TABLES: dict[str, Callable[[bool], list[dict[str, object]]]] = {
    "loss": loss_rows,
    "checkpointing": checkpointing_rows,
    "client": client_rows,
    "backbone": backbone_rows,
}


def _measure(case: str, arguments: list[str], *, num_ranks: int) -> dict[str, object]:
    return run_worker(Path(__file__), ["--measure", case, *arguments], num_ranks=num_ranks)


def _median_of_processes(case: str, arguments: list[str], quick: bool) -> dict[str, object]:
    """Return the run whose peak is the median of several processes."""
    runs = [_measure(case, arguments, num_ranks=1) for _ in range(1 if quick else NUM_PROCESSES)]
    return sorted(runs, key=lambda run: run["added_peak_bytes"])[len(runs) // 2]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "results", help="where the tables go")
    parser.add_argument("--quick", action="store_true", help="fewer clients, ranks and processes")
    parser.add_argument("--only", choices=list(TABLES), help="one table")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
