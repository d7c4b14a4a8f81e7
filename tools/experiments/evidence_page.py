"""Fills the tables of docs/evidence.md from the CSVs that evidence.py wrote, so that page and figures cannot differ.

    python tools/experiments/evidence_page.py

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; the names are those of `TABLES`. In brackets: the
number of seeds, wherever it is not `SEEDS`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS, PAGE = REPOSITORY / "docs" / "results", REPOSITORY / "docs" / "evidence.md"
SEEDS = 5

Row = Mapping[str, str]
Kind = tuple[str, str, str]
"""Task, setting and fleet."""

LETTERS = {"plenty": "(a) plenty", "scarce": "(b) scarce", "skew": "(c) skew"}
FLEETS = ("siblings", "widths")
PLACES = tuple(product(FLEETS, LETTERS))
COMPARED = ("siblings", "main", "scarce", "skew")
"""The tables of CLINC150 with all methods."""
METHODS = ("local_only", "fedproto", "flora", "fedavg_lora", "flexlora", "within_type", "shared", "heterotune")
CHANGES = {
    "no_distillation": "nothing distilled (`distill_every: 0`)",
    "distill_heads_only": "heads distilled, no steps (`distill_steps: 0`)",
    "distill_steps_8": "`distill_steps: 8` instead of 32",
    "distill_steps_128": "`distill_steps: 128`",
    "distill_every_1": "`distill_every: 1` instead of 4",
    "distill_every_2": "`distill_every: 2`",
    "distill_at_the_end": "`distill_every: 20`, once at the end",
    "public_other_task": "public questions of another task",
    "lora_within_type": "`lora_scope: type`",
    "lora_split": "`lora_scope: split`",
    "no_head": "`head_rank: 0`, nothing distilled",
    "head_only": "`lora_layers: 0`",
    "last_2_layers": "`lora_layers: 2`",
    "head_rank_16": "`head_rank: 16` instead of 64",
    "head_rank_32": "`head_rank: 32`",
    "align_pca": "`align: pca` instead of `gcca_shrunk`",
    "align_none": "`align: none`",
    "align_procrustes": "`align: procrustes`",
    "align_gcca": "`align: gcca`",
    "gates_trained": "`gates: trained`",
    "silu": "`activation: silu`",
    "cmga_none": "`cmga: none`",
}
FORMS = {
    "within_type": "own heads, nothing crosses types",
    "shared_within_type": "the same with rank 32 and `gcca`",
    "shared": "one shared head, rank 32, `gcca`",
    "shared_shrunk_64": "one shared head, rank 64, `gcca_shrunk`",
    "shared_realigned": "aligned anew every 2 rounds",
    "shared_shrunk_64_realigned": "rank 64, `gcca_shrunk`, aligned anew every 2 rounds",
    "shared_vocabulary": "the head answers in the whole vocabulary",
    "shared_all_positions": "aligned on all positions, not on the answer's",
    "shared_public_other_task": "aligned on questions of another task",
    "distill_heads_only": "own heads, distilled every 4 rounds",
    "heterotune": "own heads, distilled, and 32 steps on the whole adapter",
}
CMGA = {
    "heterotune": "`project`, the default",
    "cmga_none": "`none`",
    "cmga_mgda": "`mgda`",
    "cmga_mgda_not_rescaled": "`mgda`, `cmga_rescale: false`",
    "cmga_cagrad": "`cagrad`",
    "cmga_gradvac": "`gradvac`",
    "cmga_aligned_mtl": "`aligned_mtl`",
    "cmga_cosine": "`cosine`",
    "cmga_project_clients": "`project`, `cmga_tasks: clients`",
    "cmga_mgda_clients": "`mgda`, `cmga_tasks: clients`",
    "cmga_by_tensor": "`cmga_granularity: tensor`",
    "cmga_by_branch": "`cmga_granularity: branch`",
    "cmga_by_model": "`cmga_granularity: model`",
    "shared": "one shared head, `project`",
    "shared_cmga_none": "one shared head, `none`",
    "shared_cmga_mgda": "one shared head, `mgda`",
}
TASKS = {
    "banking77": "BANKING77's 77 intents",
    "dolly": "dolly's 8 categories",
    "shakespeare": "Shakespeare's 10 speakers",
}
SPLITS = (
    ("scarce", "heterotune", "20 rounds of 8 steps"),
    ("scarce_8x8", "heterotune", "8 of 8"),
    ("scarce_8x20", "heterotune", "8 of 20"),
    ("scarce_22x8", "heterotune", "22 of 8, `distill_every: 4`"),
    ("scarce_22x8", "distill_every_2", "22 of 8, `distill_every: 2`, as `auto` is"),
)


def gains(results: Path) -> list[str]:
    """The default against its baselines on CLINC150: one row for each setting and fleet."""
    lines = _head(
        "fleet, setting",
        "FedAvg-LoRA",
        "within type",
        "one shared head",
        "heterotune",
        "over FedAvg-LoRA",
        "over within type",
        "type that gains least, over FedAvg-LoRA",
    )
    found = _read(results, *COMPARED)
    for fleet, setting in PLACES:
        arms = found["clinc150", setting, fleet]
        ours = arms["heterotune"]
        least = f"{ours['least_gain_over_fedavg_lora_type']} {_gain(ours, 'least_gain_of_a_type_over_fedavg_lora')}"
        cells = [
            f"{fleet}, {LETTERS[setting]}",
            *(_accuracy(arms.get(arm)) for arm in ("fedavg_lora", "within_type", "shared")),
            f"**{_accuracy(ours)}**",
            f"**{_gain(ours, 'gain_over_fedavg_lora')}**",
            _gain(ours, "gain_over_within_type"),
            least,
        ]
        lines.append(_line(cells))
    return lines


def worst(results: Path) -> list[str]:
    """The worst model type and the worst client of CLINC150."""
    found = _read(results, *COMPARED)
    lines = _head("worst", "fleet, setting", *(f"`{arm}`" for arm in METHODS), "over FedAvg-LoRA", "over within type")
    for name, (fleet, setting) in product(("type", "client"), PLACES):
        arms = found["clinc150", setting, fleet]
        figures = [_accuracy(arms.get(arm), f"worst_{name}") for arm in METHODS]
        over = [
            _gain(arms["heterotune"], f"worst_{name}_gain_over_{other}") for other in ("fedavg_lora", "within_type")
        ]
        lines.append(_line([name, f"{fleet}, {LETTERS[setting]}", *figures, *over]))
    return lines


def methods(results: Path) -> list[str]:
    """All methods on CLINC150."""
    found = _read(results, *COMPARED)
    lines = _head("fleet, setting", *(f"`{arm}`" for arm in METHODS), "`flexlora` over `heterotune`")
    for fleet, setting in PLACES:
        arms = found["clinc150", setting, fleet]
        figures = [_accuracy(arms.get(arm)) for arm in METHODS]
        behind = _gain(arms.get("flexlora"), "gain_over_heterotune")
        lines.append(_line([f"{fleet}, {LETTERS[setting]}", *figures, behind]))
    return lines


def ablation(results: Path) -> list[str]:
    """The default with one change each, as differences to the default."""
    found = _read(results, "ablation")
    lines = _head("change", "siblings", "widths")
    for arm, text in CHANGES.items():
        rows = [found["clinc150", "scarce", fleet].get(arm) for fleet in FLEETS]
        if any(rows):
            lines.append(_line([text, *(_gain(row, "gain_over_heterotune") for row in rows)]))
    return lines


def forms(results: Path) -> list[str]:
    """Ways of transfer between widths, as differences to the twin in which nothing is shared."""
    found = _read(results, "forms")
    lines = _head(
        "form", *(f"{LETTERS[name]}{word}" for name in ("scarce", "skew") for word in ("", ", over the twin"))
    )
    for arm, text in FORMS.items():
        rows = [found["clinc150", setting, "widths"].get(arm) for setting in ("scarce", "skew")]
        cells = [cell for row in rows for cell in (_accuracy(row), _gain(row, "gain_over_within_type"))]
        lines.append(_line([text, *cells]))
    return lines


def cmga(results: Path) -> list[str]:
    """Forms of CMGA under type skew between siblings."""
    arms = _read(results, "cmga")["clinc150", "skew", "siblings"]
    lines = _head("CMGA", "accuracy", "over the default", "worst type", "worst client")
    for arm, text in CMGA.items():
        if row := arms.get(arm):
            worst = (_figure(row[f"{name}_accuracy"]) for name in ("worst_type", "worst_client"))
            lines.append(_line([text, _accuracy(row), _gain(row, "gain_over_heterotune"), *worst]))
    return lines


def rounds(results: Path) -> list[str]:
    """Other numbers of rounds and steps."""
    found = _read(results, "rounds")
    lines = _head("fleet", "rounds", "FedAvg-LoRA", "within type", "heterotune", "over FedAvg-LoRA", "over within type")
    for fleet, (setting, arm, text) in product(FLEETS, SPLITS):
        lines.append(_line([fleet, text, *_core(found["clinc150", setting, fleet], arm)]))
    return lines


def tasks(results: Path) -> list[str]:
    """Tasks other than CLINC150."""
    found = _read(results, "other")
    columns = ("task, fleet", "FedAvg-LoRA", "within type", "heterotune", "over FedAvg-LoRA", "over within type")
    lines = _head(*columns)
    for (task, text), fleet in product(TASKS.items(), FLEETS):
        lines.append(_line([f"{text}, {fleet}", *_core(found.get((task, "scarce", fleet), {}))]))
    return lines


def tuning(results: Path) -> list[str]:
    """Learning rates of LoRA."""
    lines = _head("setting", "method", "learning rate", "widths", "siblings", "runs")
    for row in _rows(results, "tuning"):
        figures = [
            _figure(row[f"{fleet}_accuracy"]) if row[f"{fleet}_accuracy"] else "–" for fleet in ("widths", "siblings")
        ]
        lines.append(_line([LETTERS[row["setting"]], f"`{row['arm']}`", row["lora"], *figures, row["runs"]]))
    return lines


def single(results: Path) -> list[str]:
    """A fleet of one size."""
    found = _read(results, "single")
    lines = _head("setting", "`local_only`", "`fedavg_lora`", "with head branch")
    for setting in ("scarce", "plenty"):
        arms = found["clinc150", setting, "one"]
        lines.append(_line([setting, *(_accuracy(arms.get(arm)) for arm in METHODS if arm in arms)]))
    return lines


TABLES: Mapping[str, Callable[[Path], list[str]]] = {
    each.__name__: each for each in (gains, methods, worst, ablation, forms, cmga, rounds, tasks, tuning, single)
}


def filled(page: str, results: Path) -> str:
    """Return a page with its tables written anew.

    Args:
        page: Markdown with the marks of tables.
        results: Folder of the CSVs.

    Raises:
        KeyError: If the page names a table that is not in `TABLES`.
    """

    def table(found: re.Match[str]) -> str:
        return "\n".join([f"<!-- table: {found[1]} -->", *TABLES[found[1]](results), "<!-- end -->"])

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


def _read(results: Path, *tables: str) -> dict[Kind, dict[str, Row]]:
    """Return task, setting and fleet -> arm -> row of the CSVs."""
    found: dict[Kind, dict[str, Row]] = {}
    for row in (row for table in tables for row in _rows(results, table)):
        found.setdefault((row["task"], row["setting"], row["fleet"]), {})[row["arm"]] = row
    return found


def _rows(results: Path, table: str) -> list[Row]:
    with (results / f"evidence_{table}.csv").open(encoding="utf-8") as lines:
        return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def _core(arms: Mapping[str, Row], arm: str = "heterotune") -> list[str]:
    """The baseline, the twin, the default or another arm, and what that gains over both."""
    ours = arms.get(arm)
    means = [_accuracy(arms.get(each)) for each in ("fedavg_lora", "within_type", arm)]
    return [*means, _gain(ours, "gain_over_fedavg_lora"), _gain(ours, "gain_over_within_type")]


def _accuracy(row: Row | None, name: str = "mean") -> str:
    """A mean over seeds ± its standard deviation, in points."""
    if row is None:
        return "–"
    return _with_spread(_figure(row[f"{name}_accuracy"]), row[f"{name}_accuracy_std"]) + _brackets(row["seeds"])


def _gain(row: Row | None, name: str) -> str:
    """A mean difference ± half its confidence interval, in points."""
    if row is None or not row[name] or name == f"gain_over_{row['arm']}":
        return "–"
    gain = f"{float(row[name]):+.1f}".replace("-", "−")
    half = row[f"{name.replace('_of_a_type', '')}_ci95"]
    return _with_spread(gain, half) + _brackets(row[f"pairs_with_{name.rpartition('over_')[2]}"])


def _with_spread(figure: str, spread: str) -> str:
    return f"{figure} ± {_figure(spread)}" if spread else figure


def _figure(value: str) -> str:
    return f"{float(value):.1f}"


def _brackets(seeds: str) -> str:
    return "" if int(seeds) == SEEDS else f" ({seeds})"


def _head(*columns: str) -> list[str]:
    return [_line(columns), "|" + "---|" * len(columns)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")
