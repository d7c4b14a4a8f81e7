"""Client fusion: training clients together against one by one, and against a bare pass of the frozen model.

    python tools/benchmarks/fusion.py                # about 16 minutes on two cores; writes docs/results/fusion*
    python tools/benchmarks/fusion.py --quick        # a minute: does everything still run?

Each of a rank's 8 clients has the same number of tokens a step. An entry is a chunk size: stack the chunk, make its
local steps, take the updates; or the limit: forward and backward of the bare frozen model on the same tokens. Under
ZeRO-3 all ranks do so at once. Entries take turns; figures are medians over the turns, ratios are made within a turn.
`auto` applies the rule of `chunk.clients: auto` to the other turns of the same job, so its own turn never helps it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(REPOSITORY / "engine")]

from ranks import join_zero3, open_ranks, run_worker  # noqa: E402
from tables import require_matplotlib, write_table  # noqa: E402

NUM_CLIENTS = 8
CHUNKS = (1, 2, 4, 8)
WIDTHS = (64, 256, 512)
ROWS_AND_TOKENS = ((1, 32), (2, 128), (8, 256))
NUM_LAYERS = 4
VOCAB_SIZE = 2048
NUM_TURNS = 5
NUM_STEPS = 2
LONG_TOKENS = 1024
"""From here on an entry is one chunk, not as many as hold all clients, and one step: a turn would take minutes."""
RANKS = {"none": 1, "zero3_cpu": 2}
LIMIT = "limit"


def main() -> int:
    """Run the benchmark. Returns the process's exit code."""
    options = _parse()
    if options.worker:
        rows = measure(options.worker, options.width, options.quick, options.turns)
        if options.answer is not None and rows:
            options.answer.write_text(json.dumps(rows))
        return 0
    if not options.no_plot:
        require_matplotlib()
    arguments = ["--quick"] * options.quick + ["--turns", str(options.turns)]
    rows = []
    for ds_config, num_ranks in RANKS.items():
        for width in WIDTHS[:1] if options.quick else WIDTHS:
            job = ["--worker", ds_config, "--width", str(width), *arguments]
            measured = run_worker(Path(__file__), job, num_ranks=num_ranks)
            rows += measured
            print("\n".join(_notes(summarise(measured))), flush=True)
            write_table(options.out / "fusion_turns.csv", rows)  # what there is, if a later shape fails
    summaries = summarise(rows)
    write_table(options.out / "fusion.csv", summaries, notes=_notes(summaries))
    if not options.no_plot:
        from fusion_plot import draw

        draw(summaries, options.out / "fusion.png")
    return 0


def measure(ds_config: str, width: int, quick: bool, num_turns: int) -> list[dict[str, object]]:
    """Time a width's shapes on this job's ranks; every rank must call this. One row an entry and turn at the root."""
    import torch

    torch.set_num_threads(1)
    channel = open_ranks()
    if ds_config != "none":
        join_zero3(channel)
    rows: list[dict[str, object]] = []
    entries_of = _entries(ds_config, width)
    for num_rows, num_tokens in ROWS_AND_TOKENS[:2] if quick else ROWS_AND_TOKENS:
        shape = {
            "ds_config": ds_config,
            "num_ranks": channel.num_ranks,
            "width": width,
            "tokens_per_client": num_rows * num_tokens,
        }
        rows += [shape | turn for turn in _take_turns(entries_of(num_rows, num_tokens), num_turns, channel.barrier)]
    root = channel.mpi_rank == 0
    channel.close()
    return rows if root else []


def summarise(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return one row a shape: medians, ratios within turns, and what `auto` would pick."""
    shapes = dict.fromkeys((r["ds_config"], r["num_ranks"], r["width"], r["tokens_per_client"]) for r in rows)
    summaries = []
    for shape in shapes:
        mine = [r for r in rows if (r["ds_config"], r["num_ranks"], r["width"], r["tokens_per_client"]) == shape]
        of = {(r["entry"], r["chunk"]): [] for r in mine}
        for row in mine:
            of[row["entry"], row["chunk"]].append(row["seconds_per_client_step"])
        summaries.append(
            dict(zip(("ds_config", "num_ranks", "width", "tokens_per_client"), shape, strict=True)) | _figures(of)
        )
    return summaries


def _figures(of: dict[tuple[str, int], list[float]]) -> dict[str, object]:
    trained = {chunk: of["train", chunk] for chunk in CHUNKS}
    turns = range(len(trained[1]))
    picks = [_auto({chunk: [s[t] for t in turns if t != turn] for chunk, s in trained.items()}) for turn in turns]
    chosen = [trained[pick][turn] for turn, pick in zip(turns, picks, strict=True)]
    fused = _ratios(trained[1], trained[NUM_CLIENTS])
    return {
        **{f"chunk_{chunk}_ms": f"{1e3 * median(seconds):.3f}" for chunk, seconds in trained.items()},
        "limit_1_ms": f"{1e3 * median(of[LIMIT, 1]):.3f}",
        "limit_8_ms": f"{1e3 * median(of[LIMIT, NUM_CLIENTS]):.3f}",
        "fused_speedup": f"{median(fused):.2f}",
        "fused_speedup_lowest": f"{min(fused):.2f}",
        "fused_speedup_highest": f"{max(fused):.2f}",
        "share_of_limit_1": f"{median(_ratios(of[LIMIT, 1], trained[1])):.3f}",
        "share_of_limit_8": f"{median(_ratios(of[LIMIT, NUM_CLIENTS], trained[NUM_CLIENTS])):.3f}",
        "auto_chunk": Counter(picks).most_common(1)[0][0],
        "auto_speedup": f"{median(_ratios(trained[1], chosen)):.3f}",
    }


def _auto(seconds_of: dict[int, list[float]]) -> int:
    """Return what the engine's rule picks from these measurements for a cohort of 8 clients a rank."""
    from heterotune.chunk_tuning import Trial, fastest

    trials = [Trial(chunk, chunk * min(seconds)) for chunk, seconds in seconds_of.items()]
    return fastest(trials, num_in_cohort=NUM_CLIENTS, num_ranks=1)


def _ratios(above: list[float], below: list[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


def _notes(summaries: list[dict[str, object]]) -> list[str]:
    lines = []
    for s in summaries:
        shape = f"{s['ds_config']:>9} x{s['num_ranks']}  width {s['width']:>3}  {s['tokens_per_client']:>4} tokens"
        limit = f"of the limit {float(s['share_of_limit_8']):.0%} (chunk 1: {float(s['share_of_limit_1']):.0%})"
        auto = f"auto picks {s['auto_chunk']}: {s['auto_speedup']} x"
        lines.append(f"{shape}: fused {s['fused_speedup']} x one by one, {limit}, {auto}")
    return lines


Entry = tuple[str, int, int, Callable[[], None]]


def _entries(ds_config: str, width: int) -> Callable[[int, int], list[Entry]]:
    """Load a model and return what makes a shape's entries: (what, chunk, client steps that it makes, call)."""
    from training_pass import limit_pass, make_batch, make_setting, random_model, train

    from heterotune.config.method_options import LocalConfig

    setting = make_setting(random_model(width, num_layers=NUM_LAYERS, vocab_size=VOCAB_SIZE), ds_config=ds_config)

    def entries_of(num_rows: int, num_tokens: int) -> list[Entry]:
        is_long = num_rows * num_tokens >= LONG_TOKENS
        local = LocalConfig(steps=1 if is_long else NUM_STEPS, optimizer="sgd", learning_rate=1e-2)
        entries: list[Entry] = []
        for chunk in CHUNKS:
            batch = make_batch(setting, chunk, num_rows, num_tokens)
            num_chunks = 1 if is_long else NUM_CLIENTS // chunk

            def training(batch=batch, chunk=chunk, num_chunks=num_chunks) -> None:
                for _ in range(num_chunks):
                    train(setting, batch, chunk, local)

            def limit(batch=batch, num_passes=num_chunks * (local.steps or 1)) -> None:
                for _ in range(num_passes):
                    limit_pass(setting, batch)

            client_steps = chunk * num_chunks * (local.steps or 1)
            entries.append(("train", chunk, client_steps, training))
            if chunk in (1, NUM_CLIENTS):
                entries.append((LIMIT, chunk, client_steps, limit))
        return entries

    return entries_of


def _take_turns(entries: list[Entry], num_turns: int, barrier: Callable[[], None]) -> list[dict[str, object]]:
    """Run every entry once a turn after a warm-up turn; each turn begins with another one."""
    rows = []
    for turn in range(num_turns + 1):
        first = turn % len(entries)
        for what, chunk, client_steps, call in [*entries[first:], *entries[:first]]:
            barrier()
            started = time.perf_counter()
            call()
            barrier()
            seconds = (time.perf_counter() - started) / client_steps
            if turn:
                load = round(os.getloadavg()[0], 2)
                row = {"turn": turn, "entry": what, "chunk": chunk, "seconds_per_client_step": seconds}
                rows.append(row | {"load_average": load})
    return rows


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "results", help="where tables and plot go")
    parser.add_argument("--quick", action="store_true", help="the smallest width and few tokens only")
    parser.add_argument("--turns", type=int, default=NUM_TURNS, help=f"default {NUM_TURNS}")
    parser.add_argument("--no-plot", action="store_true", help="tables only; needs no matplotlib")
    parser.add_argument("--worker", choices=sorted(RANKS), help=argparse.SUPPRESS)
    parser.add_argument("--width", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
