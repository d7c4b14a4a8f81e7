"""A long run of many ranks and clients has a small page in seconds, and the page says what it puts together."""

from __future__ import annotations

import json
from pathlib import Path

from heterotune.report.page import LARGEST_BYTES, draw, write_page
from heterotune.report.run_page import run_page
from heterotune.report.run_record import read_run

ROUNDS, RANKS, CLIENTS, COHORT = 900, 64, 1000, 40
TYPES = ("a", "b", "c", "d")
GROUPS = [f"dema.width/{layer}" for layer in range(12)]


def write(path: Path, lines) -> None:
    with path.open("w") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def metrics():
    for n in range(ROUNDS + 1):
        for place, name in enumerate(TYPES):
            loss = 3 + place + 1 / (1 + n / 100) + (n * 7919 % 101) / 1000
            yield {"round": n, "name": "loss/eval", "model_type": name, "value": loss, "unit": "nats/token"}
        for rank in range(0 if n % 4 == 0 else RANKS, RANKS):
            yield {"round": n, "name": "rank/idle_share", "mpi_rank": rank, "value": rank / 99, "unit": "share"}
        for group in GROUPS if n % 5 == 0 else ():
            for pair in ("a:b", "a:c", "a:d", "b:c", "b:d", "c:d"):
                yield {"round": n, "name": "cmga/cosine", "group": group, "pair": pair, "value": 0.1, "unit": "cosine"}
        for phase in ("round", "train", "evaluate") if n else ():
            yield {"round": n, "name": f"seconds/{phase}", "value": 2.0, "unit": "s"}


def ledger():
    for n in range(1, ROUNDS + 1):
        for client in range(n * COHORT % CLIENTS, n * COHORT % CLIENTS + COHORT):
            line = {"round": n, "client": client, "model_type": TYPES[client % 4], "direction": "up", "group": "g"}
            yield line | {"bytes": 1000}


def memory():
    for n in range(1, ROUNDS + 1, 50):
        for rank in range(RANKS):
            for phase in ("train", "evaluate"):
                line = {"round": n, "mpi_rank": rank, "phase": phase, "kind": "host_resident"}
                yield line | {"peak_bytes": 2**30 + rank * 2**20, "components": {"runtime": 2**29}}


def test_the_page_of_a_large_run_is_small(make_run) -> None:
    fleet = [{"name": name, "model": "embedded:small", "clients": CLIENTS // 4} for name in TYPES]
    path = make_run(rounds=2, compare_with=[], fleet=fleet)
    (path / "config.yaml").write_text((path / "config.yaml").read_text().replace("rounds: 2", f"rounds: {ROUNDS}"))
    write(path / "metrics.jsonl", metrics())
    write(path / "ledger.jsonl", ledger())
    write(path / "memory.jsonl", memory())
    spans = [
        {"name": name, "category": "phase", "start_us": 1000 * n, "duration_us": 400}
        for n in range(500)
        for name in ("train", "encode")
    ]
    (path / "spans.json").write_text(json.dumps({"round": ROUNDS, "ranks": [spans] * RANKS}))
    run = read_run(path)
    curves = run.strategies[0].metrics.curves
    assert max(len(curve.points()) for mine in curves.values() for curve in mine.values()) <= 402
    page = run_page(run)
    text = write_page(page, draw(page))
    assert len(text.encode()) < LARGEST_BYTES
    for note in (
        "The run is long: a point is the mean of up to 4 rounds. The first and the last are exact.",
        "Of 64 ranks the mean is drawn, with a band from the least to the most idle.",
        "There are 1000 clients: a bar is the mean of neighbours. The CSV has each.",
        "The first 12 of 64 ranks are drawn.",
        "only the highest and the lowest of each phase are drawn",
    ):
        assert note in text, note
