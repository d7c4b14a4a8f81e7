"""What the evidence tables compare: fleets, settings of the data, arms (a method with options), and a table's cells.

Arms are equal in local steps, batch and learning rate, and in trainable parameters: whoever lacks the head branch gets
a LoRA rank at which a model type trains about as much as under the within-type twin (heterotune with every tensor at
scope "type"), which is what a gain of sharing is measured against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from evidence_tasks import PUBLIC, PUBLIC_OTHER, TASKS, PreparedTask

from heterotune.adapters.tables import adapter_layout
from heterotune.config.load import parse_run
from heterotune.config.schema import RunConfig
from heterotune.fleet.model_types import read_model_types

CLIENTS_OF_TYPE = 3
NUM_TEST = 400
LABELS_WITHHELD = 3
ROUNDS = 20  # of few steps: with fewer and longer ones, clients drift apart and sharing LoRA gains nothing
SHARED_RUN: Mapping[str, Any] = {
    "rounds": ROUNDS,
    "threads_per_rank": 1,
    "bind_cores": "never",
    "backbone": {"ds_config": "none"},
    "chunk": {"clients": CLIENTS_OF_TYPE},
    "checkpoint": {"every_rounds": 0, "keep": 1, "keep_best": False, "progress_seconds": "never"},
    "evaluate": {
        "every_rounds": ROUNDS,
        "before_first": False,
        "max_rows": NUM_TEST,
        "batch_size": 100,
        "by_label": True,
    },
    "tensorboard": False,
}
LOCAL: Mapping[str, Any] = {"steps": 8, "batch_size": 8, "optimizer": "adamw", "logit_adjustment": 0.2}
HEAD: Mapping[str, Any] = {"align_positions": "answer", "align_tokens": 512, "head_outputs": "labels"}

FLEETS: Mapping[str, tuple[tuple[str, str | None], ...]] = {  # (model, whose sibling)
    "widths": (("s", None), ("m", None), ("l", None)),
    "siblings": (("l", None), ("l-4", "l"), ("l-3", "l")),
    "one": (("m", None),),
}
SETTINGS = {"plenty": 600, "scarce": 60, "skew": 60}  # rows of a client in the mean


@dataclass(frozen=True)
class Arm:
    """A method as it is compared.

    Attributes:
        strategy: The run file's.
        options: Of the strategy's section.
        alone: Every client is a model type of its own, so that nothing is shared.
        public: File of the public questions.
    """

    strategy: str
    options: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = False
    public: str = PUBLIC


def _heterotune(**options: Any) -> Arm:
    return Arm("heterotune", options)


TWIN, DEFAULT, BASELINE = "within_type", "heterotune", "fedavg_lora"
ARMS: Mapping[str, Arm] = {
    "local_only": Arm("fedavg_lora", alone=True),
    BASELINE: Arm("fedavg_lora"),
    "flora": Arm("flora"),
    "flexlora": Arm("flexlora"),
    "fedproto": Arm("fedproto", alone=True),
    TWIN: _heterotune(lora_scope="type", head_scope="type"),
    DEFAULT: _heterotune(),
    # One change of the default at a time.
    "head_shared_only": _heterotune(lora_scope="type"),
    "lora_shared_only": _heterotune(head_scope="type"),
    "lora_split": _heterotune(lora_scope="split"),
    "no_head": _heterotune(head_rank=0),
    "align_none": _heterotune(align="none"),
    "align_pca": _heterotune(align="pca"),
    "align_procrustes": _heterotune(align="procrustes"),
    "gates_trained": _heterotune(gates="trained"),
    "vocabulary_outputs": _heterotune(head_outputs="vocabulary"),
    "align_all_positions": _heterotune(align_positions="all"),
    "head_rank_16": _heterotune(head_rank=16),
    "head_rank_64": _heterotune(head_rank=64),
    "silu": _heterotune(activation="silu"),
    "cmga_none": _heterotune(cmga="none"),
}
FORMS = {  # of transfer between widths; LoRA stays within the type
    "within_type_shrunk_64": _heterotune(lora_scope="type", head_scope="type", align="gcca_shrunk", head_rank=64),
    "shrunk_64": _heterotune(lora_scope="type", align="gcca_shrunk", head_rank=64),
    "public_other_task": Arm("heterotune", {"lora_scope": "type"}, public=PUBLIC_OTHER),
    "realign": _heterotune(lora_scope="type", realign_every=2),
    "distill": _heterotune(lora_scope="type", distill_every=1),
    "distill_type": _heterotune(lora_scope="type", head_scope="type", distill_every=1),
    "distill_type_shrunk_64": _heterotune(
        lora_scope="type", head_scope="type", distill_every=1, align="gcca_shrunk", head_rank=64
    ),
}
CMGA_FORMS = ("none", "project", "cagrad", "mgda", "gradvac", "aligned_mtl", "cosine")
CMGA_ARMS = {
    f"cmga_{form}_{tasks}": _heterotune(cmga=form, cmga_tasks=tasks)
    for form, tasks in product(CMGA_FORMS, ("types", "clients"))
    if (form, tasks) != ("gradvac", "clients")  # it follows pairs over rounds
}
ALL_ARMS: Mapping[str, Arm] = {**ARMS, **FORMS, **CMGA_ARMS}
MAIN = (TWIN, DEFAULT, BASELINE, "local_only", "flora", "flexlora", "fedproto")
SIBLINGS = (*MAIN[:3], "lora_shared_only", "head_shared_only", *MAIN[3:])
ABLATION = (TWIN, *list(ARMS)[list(ARMS).index(DEFAULT) :])


@dataclass(frozen=True)
class Cell:
    """One run of a table.

    Attributes:
        task: One of `TASKS`.
        setting: One of `SETTINGS`.
        fleet: One of `FLEETS`.
        arm: One of `ALL_ARMS`.
        seed: The run's.
        out: Folder of all tables' runs.
    """

    task: str
    setting: str
    fleet: str
    arm: str
    seed: int
    out: Path

    @property
    def name(self) -> str:
        """What it is, in one word."""
        return f"{self.task}-{self.setting}-{self.fleet}-{self.arm}"

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return self.out / "runs" / self.name / f"seed-{self.seed}"

    @property
    def asked(self) -> Path:
        """The run that it was asked for."""
        return self.out / "asked" / f"{self.name}-seed-{self.seed}.yaml"

    @property
    def num_rows(self) -> int:
        """Training rows of the whole fleet."""
        return SETTINGS[self.setting] * CLIENTS_OF_TYPE * len(FLEETS[self.fleet])


TABLES: Mapping[str, tuple[tuple[Sequence[str], Sequence[str], Sequence[str], Sequence[str]], ...]] = {
    "siblings": ((("clinc150",), ("scarce", "skew", "plenty"), ("siblings",), SIBLINGS),),
    "main": ((("clinc150",), ("plenty",), ("widths",), MAIN),),
    "scarce": ((("clinc150",), ("scarce",), ("widths",), MAIN),),
    "skew": ((("clinc150",), ("skew",), ("widths",), MAIN),),
    "single": ((("clinc150",), ("scarce", "plenty"), ("one",), (TWIN, BASELINE, "local_only")),),
    "ablation": ((("clinc150",), ("scarce",), ("siblings", "widths"), ABLATION),),
    "forms": ((("clinc150",), ("scarce", "skew"), ("widths",), (TWIN, DEFAULT, *FORMS)),),
    "other": ((("banking77", "dolly"), ("scarce",), ("siblings", "widths"), (TWIN, DEFAULT, BASELINE)),),
    "cmga": ((("clinc150",), ("skew",), ("siblings", "widths"), (TWIN, *CMGA_ARMS)),),
}


def cells_of(
    table: str, seeds: Sequence[int], out: Path, *, arms: Sequence[str] = (), settings: Sequence[str] = ()
) -> list[Cell]:
    """Return a table's cells, seed by seed, so that an interrupted one has whole comparisons first.

    Args:
        table: One of `TABLES`.
        seeds: Runs of each arm.
        out: Folder of all runs.
        arms: Only these; empty = all.
        settings: The same.
    """
    kinds = [
        (task, setting, fleet, arm)
        for block in TABLES[table]
        for task, setting, fleet, arm in product(*block)
        if (not arms or arm in arms) and (not settings or setting in settings)
    ]
    return [Cell(*kind, seed=seed, out=out) for seed in seeds for kind in kinds]


def config_of(cell: Cell, task: PreparedTask, family: Path, rates: Mapping[str, float]) -> RunConfig:
    """Return the run of a cell.

    Args:
        cell: Which.
        task: Its rows.
        family: Folder of the family's models.
        rates: "lora": local.learning_rate; "head": the head branch's in units of it.
    """
    arm = ALL_ARMS[cell.arm]
    config = parse_run(_values(cell, arm, task, family, rates))
    if arm.strategy == "heterotune":
        return config
    twin = parse_run(_values(cell, ALL_ARMS[TWIN], task, family, rates))
    if arm.strategy == "fedproto":  # its adapters stay with the clients: equal LoRA, and prototypes besides
        evaluate = config.evaluate.model_copy(update={"own_adapters": "all_rows"})
        return config.model_copy(update={"evaluate": evaluate})
    wanted = [layout.num_travelling for layout in _layouts(twin)]
    if arm.alone:
        wanted = [count for count in wanted for _ in range(CLIENTS_OF_TYPE)]
    per_rank = [layout.num_travelling / 8 for layout in _layouts(config)]
    ranks = [round(count / one) for count, one in zip(wanted, per_rank, strict=True)]
    fleet = [entry.model_copy(update={"adapter_rank": rank}) for entry, rank in zip(config.fleet, ranks, strict=True)]
    return config.model_copy(update={"fleet": tuple(fleet)})


def _layouts(config: RunConfig) -> list[Any]:
    model_types = read_model_types(config.fleet)
    return [adapter_layout(config.strategy, config, each, model_types) for each in model_types]


def _values(cell: Cell, arm: Arm, task: PreparedTask, family: Path, rates: Mapping[str, float]) -> dict[str, Any]:
    """Return the values of a run file."""
    options = dict(arm.options)
    if arm.strategy == "heterotune":
        options = {"head_learning_rate_scale": rates["head"], **HEAD, **options}
    return {
        **SHARED_RUN,
        "name": "evidence",
        "seed": cell.seed,
        "fleet": fleet_entries(cell.fleet, family, alone=arm.alone),
        "data": {
            "root": str(task.folder),
            "source": "train.jsonl",
            "test": "test.jsonl",
            "public": {"path": arm.public, "fields": {"text": "text"}},
            "fields": {"text": "text", "label": "label", "labels": list(task.word_of.values())},
            "template": TASKS[cell.task].template,
            "separator": "",  # a word brings its space along
            "max_tokens": TASKS[cell.task].max_tokens,
            "partition": partition(cell, list(task.word_of.values()), alone=arm.alone),
        },
        "local": {**LOCAL, "learning_rate": rates["lora"]},
        "strategy": arm.strategy,
        arm.strategy: options,
    }


def fleet_entries(fleet: str, family: Path, *, alone: bool) -> list[dict[str, Any]]:
    """Return section `fleet`: three clients a type, or each client a type of its own."""
    entries = []
    for name, sibling_of in FLEETS[fleet]:
        common = {"model": str(family / name)}
        if alone:
            entries += [{"name": each, **common, "clients": 1} for each in _alone(name)]
        else:
            kin = {} if sibling_of is None else {"siblings_of": sibling_of}
            entries.append({"name": name, **common, **kin, "clients": CLIENTS_OF_TYPE})
    return entries


def _alone(name: str) -> list[str]:
    return [f"{name}.{client}" for client in range(CLIENTS_OF_TYPE)]


def model_of(type_name: str) -> str:
    """Return the model of a type, also where each client is a type of its own."""
    return type_name.partition(".")[0]


def withheld(cell: Cell, labels: Sequence[str]) -> dict[str, list[str]]:
    """Return under type skew: model -> the labels that its clients never see, drawn by the seed; else nothing."""
    if cell.setting != "skew":
        return {}
    order = [sorted(labels)[place] for place in np.random.default_rng([cell.seed, 3]).permutation(len(labels))]
    starts = range(0, LABELS_WITHHELD * len(FLEETS[cell.fleet]), LABELS_WITHHELD)
    return {
        name: order[start : start + LABELS_WITHHELD]
        for (name, _), start in zip(FLEETS[cell.fleet], starts, strict=True)
    }


def partition(cell: Cell, labels: Sequence[str], *, alone: bool) -> dict[str, Any]:
    """Return section `data.partition`: Dirichlet shares of each label among the clients that may hold it."""
    missing = withheld(cell, labels)
    shares = {"alpha": 0.3, "min_documents": 8}
    if not missing:
        return {"by": "dirichlet", **shares}
    holds = {
        each: [label for label in labels if label not in never]
        for name, never in missing.items()
        for each in (_alone(name) if alone else [name])
    }
    return {"by": "model_type", "holds": holds, "within": "dirichlet", **shares}
