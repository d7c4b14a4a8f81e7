"""Where might CMGA matter on real queries? CLINC150's domains in fleets whose model types disagree; writes a table.

    python tools/experiments/evidence_cmga.py --data DATA --family FAMILY --out OUT

Both fleets are a model and its depth-pruned sibling, which share LoRA and head, so that conflicts can arise in every
layer. `opposed`: what the one client of the sibling calls banking the three others call travel, and so with all pairs
of domains (`partly`: with two pairs of five); scored on rows that clients hold back, under their own names.
`dominated`: eight clients hold six of the domains, the sibling's two the other four; scored on common rows, balanced
over the domains. Tasks, alignment and paired gains are those of `evidence.py`; nothing adjusts logits for what a client
has seen.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(REPOSITORY / "tools" / "benchmarks"), str(REPOSITORY / "engine")]

import numpy as np  # noqa: E402
from evidence_arms import SHARED, WITHIN  # noqa: E402
from evidence_tasks import TASKS, label_words  # noqa: E402
from forked_runs import import_engine, run_forked  # noqa: E402
from grid_cells import SeedCell, check_asked, is_done, work_of  # noqa: E402
from paired_differences import paired, spread  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from heterotune.config.load import parse_run  # noqa: E402
from heterotune.config.schema import RunConfig  # noqa: E402

PAIRS = (
    ("banking", "travel"),
    ("home", "work"),
    ("auto_and_commute", "meta"),
    ("credit_cards", "small_talk"),
    ("kitchen_and_dining", "utility"),
)
SWAPPED = {"opposed": PAIRS, "partly": PAIRS[:2], "dominated": ()}
RARE = ("credit_cards", "meta", "travel", "utility")
ROWS_OF_CLIENT, TEST_ROWS = {"opposed": 120, "partly": 120, "dominated": 60}, 200
CLIENTS = {"opposed": (3, 1), "partly": (3, 1), "dominated": (8, 2)}  # of l and l-3
ROUNDS = {"opposed": 18, "partly": 18, "dominated": 16}  # opposed updates conflict once the form of answers is learned
LOCAL = {"steps": 12, "batch_size": 8, "optimizer": "adamw"}
ARMS: Mapping[str, Mapping[str, Any]] = {
    "none": {"cmga": "none"},
    "project": {},
    "mgda": {"cmga": "mgda"},
    "within type": WITHIN,
    "cagrad": {"cmga": "cagrad"},
    "project, clients": {"cmga_tasks": "clients"},
    "project, not rescaled": {"cmga_rescale": False},
    "aligned_mtl": {"cmga": "aligned_mtl"},
    "gradvac": {"cmga": "gradvac"},
    "cosine": {"cmga": "cosine"},
}


@dataclass(frozen=True)
class Cell(SeedCell):
    """One run: a setting, an arm, a seed, and the folder of all runs."""

    setting: str
    arm: str
    seed: int
    out: Path

    @property
    def name(self) -> str:
        return f"{self.setting}-{self.arm.replace(', ', '-').replace(' ', '-')}"


def config_of(cell: Cell, data: Path, family: Path, words: Mapping[str, str], rates: Mapping[str, float]) -> RunConfig:
    """Return a cell's run, its rows written."""
    folder = _write_rows(cell, data, words)
    models = [("l", {}), ("l-3", {"siblings_of": "l"})]
    fleet = [
        {"name": name, "model": str(family / name), "clients": number, **kin}
        for (name, kin), number in zip(models, CLIENTS[cell.setting], strict=True)
    ]
    evaluate = {"every_rounds": ROUNDS[cell.setting], "before_first": False, "max_rows": TEST_ROWS, "batch_size": 100}
    values = {
        "name": "evidence-cmga",
        "seed": cell.seed,
        "rounds": ROUNDS[cell.setting],
        "threads_per_rank": 1,
        "bind_cores": "never",
        "backbone": {"ds_config": "none"},
        "chunk": {"clients": 4},
        "checkpoint": {"every_rounds": 0, "keep": 1, "keep_best": False, "progress_seconds": "never"},
        "tensorboard": False,
        "evaluate": {**evaluate, "by_label": cell.setting == "dominated"},
        "fleet": fleet,
        "data": _data(cell, folder, words),
        "local": {**LOCAL, "learning_rate": rates["lora"]},
        "strategy": "heterotune",
        "heterotune": {**SHARED, "head_learning_rate_scale": rates["head"], **ARMS[cell.arm]},
    }
    return parse_run(values)


def _data(cell: Cell, folder: Path, words: Mapping[str, str]) -> dict[str, Any]:
    """Return section `data`."""
    common = {
        "root": str(folder),
        "source": "train.jsonl",
        "public": {"path": "public.jsonl", "fields": {"text": "text"}},
        "fields": {"text": "text", "label": "label", "labels": list(words.values())},
        "template": TASKS["clinc150"].template,
        "separator": "",
        "max_tokens": TASKS["clinc150"].max_tokens,
    }
    if cell.setting != "dominated":
        holds = {"l": ["plain"], "l-3": ["opposed"]}
        partition = {"by": "model_type", "key": "side", "holds": holds}
        return {**common, "partition": partition, "heldout": "clients", "heldout_fraction": 0.3}
    holds = {"l": [words[name] for name in words if name not in RARE], "l-3": [words[name] for name in RARE]}
    return {**common, "partition": {"by": "model_type", "holds": holds}, "test": "test.jsonl"}


def _write_rows(cell: Cell, data: Path, words: Mapping[str, str]) -> Path:
    """Draw and write the rows of a setting and seed, unless they are there."""
    folder = cell.out / "rows" / f"{cell.setting}-{cell.seed}"
    if not (folder / "public.jsonl").exists():
        folder.mkdir(parents=True, exist_ok=True)
        task = TASKS["clinc150"]
        train, test = (_drawn(task.read(data, part), cell.seed) for part in ("train", "test"))
        num_rows = ROWS_OF_CLIENT[cell.setting] * sum(CLIENTS[cell.setting])
        _write(folder / "train.jsonl", _train_rows(cell.setting, train[:num_rows], words))
        _write(folder / "test.jsonl", ({"text": text, "label": words[label]} for text, label in test[:TEST_ROWS]))
        _write(folder / "public.jsonl", ({"text": text} for text, _ in task.read(data, task.public)))
    return folder


def _drawn(rows: Sequence[tuple[str, str]], seed: int) -> list[tuple[str, str]]:
    """Return rows so that any first part is balanced over the labels."""
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    seen: dict[str, int] = defaultdict(int)
    turns = []
    for place in order:
        label = rows[place][1]
        turns.append((seen[label], label, place))
        seen[label] += 1
    return [rows[place] for _, _, place in sorted(turns)]


def _train_rows(setting: str, rows: Sequence[tuple[str, str]], words: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """Yield rows; where types are opposed, each for the side that holds it, under that side's name."""
    other = {a: b for pair in SWAPPED[setting] for a, b in (pair, pair[::-1])}
    *_, opposed = CLIENTS[setting]
    every = sum(CLIENTS[setting]) // opposed
    for number, (text, label) in enumerate(rows):
        is_opposed = setting != "dominated" and (number // len(words)) % every == 0  # a whole turn of the labels
        called = other.get(label, label) if is_opposed else label
        yield {"text": text, "label": words[called], "side": "opposed" if is_opposed else "plain"}


def _write(path: Path, rows: Iterator[Mapping[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_scores(cell: Cell, what: str) -> dict[str, float]:
    """Return model type -> accuracy or loss after the last round: mean over its clients, or on the common rows."""
    wanted = f"{what}/client" if cell.setting != "dominated" else f"{what}/eval"
    found: dict[str, list[float]] = defaultdict(list)
    for line in (cell.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["name"] == wanted and "model_type" in entry:
            found[entry["model_type"]].append(entry["value"])
    return {name: statistics.fmean(values) for name, values in found.items()}


def conflict_share(cell: Cell) -> float:
    """Return the share of pairs of tasks whose updates conflicted, over rounds and groups; 0 without CMGA."""
    conflicts = pairs = 0
    for line in (cell.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["name"] == "cmga/cosine":
            pairs, conflicts = pairs + 1, conflicts + (entry["value"] < 0)
    return conflicts / pairs if pairs else 0.0


def table_rows(cells: Sequence[Cell]) -> list[dict[str, object]]:
    """Return one row for each setting and arm: means over seeds, and gains over `none`, seed by seed."""
    kinds: dict[tuple[str, str], dict[int, Cell]] = defaultdict(dict)
    shares: dict[tuple[str, str], list[float]] = defaultdict(list)
    for cell in cells:
        kinds[cell.setting, cell.arm][cell.seed] = cell
        shares[cell.setting, cell.arm].append(conflict_share(cell))
    rows = []
    for (setting, arm), mine in kinds.items():
        row: dict[str, object] = {"setting": setting, "cmga": arm, "seeds": len(mine)}
        row["conflicts"] = f"{statistics.fmean(shares[setting, arm]):.2f}"
        for name, measure in MEASURES.items():
            values = {seed: measure(each) for seed, each in mine.items()}
            others = {seed: measure(each) for seed, each in kinds.get((setting, "none"), {}).items()}
            gain, half = paired(values, others)
            mean, deviation = spread(list(values.values()))
            row |= {name: f"{mean:.3f}", f"{name}_std": f"{deviation:.3f}"}
            row |= {f"{name}_gain": f"{gain:.3f}", f"{name}_gain_ci95": f"{half:.3f}"}
        rows.append(row)
    return sorted(rows, key=lambda row: (row["setting"], list(ARMS).index(str(row["cmga"]))))


def _accuracies(cell: Cell) -> dict[str, float]:
    return {name: 100 * value for name, value in read_scores(cell, "accuracy").items()}


MEASURES: Mapping[str, Callable[[Cell], float]] = {
    "mean_accuracy": lambda cell: statistics.fmean(_accuracies(cell).values()),
    "worst_type_accuracy": lambda cell: min(_accuracies(cell).values()),
    "accuracy_l": lambda cell: _accuracies(cell)["l"],
    "accuracy_l-3": lambda cell: _accuracies(cell)["l-3"],
    "mean_loss": lambda cell: statistics.fmean(read_scores(cell, "loss").values()),
    "worst_type_loss": lambda cell: max(read_scores(cell, "loss").values()),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--family", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="runs and rows")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "docs" / "results", help="where the CSV goes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--settings", nargs="+", default=list(CLIENTS), choices=list(CLIENTS))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, a core each; 0 = only write the table")
    parser.add_argument("--rates", default='{"lora": 0.003, "head": 1.0}', help="learning rates as JSON")
    options = parser.parse_args()
    data, family, out = (getattr(options, name).absolute() for name in ("data", "family", "out"))
    rates = json.loads(options.rates)
    domains = sorted({label for _, label in TASKS["clinc150"].read(data, "train")})
    words = label_words(TASKS["clinc150"], domains, Tokenizer.from_file(str(family / "l" / "tokenizer.json")))
    cells = [Cell(*kind, seed, out) for seed in options.seeds for kind in _product(options.settings, options.arms)]
    configs = {cell: config_of(cell, data, family, words, rates) for cell in cells}
    check_asked(configs)
    import_engine()
    started = time.perf_counter()

    def tell(cell: Cell, code: int, seconds: float) -> None:
        how = f"{_accuracies(cell)} {read_scores(cell, 'loss')}" if code == 0 else f"exit code {code}: {cell.folder}"
        now = time.perf_counter() - started
        print(f"{now:7.0f} s  {cell.name} seed {cell.seed} {seconds:.1f} s: {how}", flush=True)

    left = [(cell, work_of(cell, config)) for cell, config in configs.items() if not is_done(cell)]
    if options.jobs:
        run_forked(iter(left), options.jobs, tell)
    done = [cell for cell in cells if is_done(cell)]
    from tables import write_table

    facts = f"learning rates: {options.rates}; local: {json.dumps(LOCAL)}; rounds: {json.dumps(ROUNDS)}"
    note = "gain: over none, seed by seed, in points or nats/token; ci95: half a t interval; conflicts: share of pairs"
    write_table(options.results / "evidence_cmga_conflict.csv", table_rows(done), [facts, note])
    print(f"{len(done)} of {len(cells)} runs are done")


def _product(settings: Sequence[str], arms: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield settings and arms, an arm in all settings before the next one."""
    for arm in arms:
        for setting in settings:
            yield setting, arm


if __name__ == "__main__":
    main()
