"""What the evidence tables compare: fleets, settings of the data, arms (a method with options), and a table's cells.

Arms are equal in local steps, batch and learning rate. Other methods are equal in trainable parameters, too: they get
a LoRA rank at which a model type trains about as much as under the within-type twin (heterotune with every tensor at
scope "type"), which is what a gain of sharing is measured against. Forms and ablations of heterotune are not: they
train what their options say, which is much less without a head or with LoRA in few layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from evidence_tasks import PUBLIC, PUBLIC_OTHER, TASKS, PreparedTask
from grid_cells import SeedCell

from heterotune.adapters.tables import adapter_layout
from heterotune.config.load import parse_run
from heterotune.config.schema import RunConfig
from heterotune.fleet.model_types import read_model_types

CLIENTS_OF_TYPE = 3
NUM_TEST = 1000
LABELS_WITHHELD = 3
ROUNDS, STEPS = 20, 8  # table "rounds" has other ones
SHARED_RUN: Mapping[str, Any] = {
    "threads_per_rank": 1,
    "bind_cores": "never",
    "backbone": {"ds_config": "none"},
    "chunk": {"clients": CLIENTS_OF_TYPE},
    "checkpoint": {"every_rounds": 0, "keep": 1, "keep_best": False, "progress_seconds": "never"},
    "evaluate": {
        "before_first": False,
        "max_rows": NUM_TEST,
        "batch_size": 100,
        "by_label": True,
    },
    "tensorboard": False,
}
LOCAL: Mapping[str, Any] = {"batch_size": 8, "optimizer": "adamw", "logit_adjustment": 0.2}
HEAD: Mapping[str, Any] = {"align_positions": "answer", "align_tokens": 512, "head_outputs": "labels"}

FLEETS: Mapping[str, tuple[tuple[str, str | None], ...]] = {  # (model, whose sibling)
    "widths": (("s", None), ("m", None), ("l", None)),
    "siblings": (("l", None), ("l-4", "l"), ("l-3", "l")),
    "one": (("m", None),),
}


@dataclass(frozen=True)
class Setting:
    """How much data there is and how it is learned from: rows of a client in the mean, rounds, local steps."""

    rows: int
    rounds: int = ROUNDS
    steps: int = STEPS


SETTINGS = {
    "plenty": Setting(600),
    "scarce": Setting(60),
    "skew": Setting(60),
    "scarce_8x8": Setting(60, rounds=8),
    "scarce_8x20": Setting(60, rounds=8, steps=20),
    "scarce_22x8": Setting(60, rounds=22),  # ends two rounds after a lesson
}


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


ANSWERS: Mapping[str, Any] = {"head_rank": 64, "align": "gcca_shrunk", **HEAD}
DISTILLED: Mapping[str, Any] = {**ANSWERS, "lora_scope": "width", "head_scope": "type", "distill_every": 4}
SHARED: Mapping[str, Any] = {**HEAD, "lora_scope": "width", "head_scope": "fleet", "head_rank": 32, "align": "gcca"}
WITHIN: Mapping[str, Any] = {"lora_scope": "type", "head_scope": "type", "distill_every": 0}


def _distilled(**changes: Any) -> Arm:
    """The default for label tasks, with changes."""
    return Arm("heterotune", {**DISTILLED, **changes})


def _shared(**changes: Any) -> Arm:
    """One head for all model types, with changes."""
    return Arm("heterotune", {**SHARED, **changes})


TWIN, DEFAULT, BASELINE = "within_type", "heterotune", "fedavg_lora"
METHODS: Mapping[str, Arm] = {
    TWIN: _distilled(**WITHIN),
    DEFAULT: _distilled(),
    "shared": _shared(),
    BASELINE: Arm("fedavg_lora"),
    "local_only": Arm("fedavg_lora", alone=True),
    "flora": Arm("flora"),
    "flexlora": Arm("flexlora"),
    "fedproto": Arm("fedproto", alone=True),
}
CHANGES: Mapping[str, Arm] = {  # of the default, one at a time
    "no_distillation": _distilled(distill_every=0),
    "distill_heads_only": _distilled(distill_steps=0),
    "distill_steps_8": _distilled(distill_steps=8),
    "distill_steps_128": _distilled(distill_steps=128),
    "distill_every_1": _distilled(distill_every=1),
    "distill_every_2": _distilled(distill_every=2),
    "distill_at_the_end": _distilled(distill_every=ROUNDS),
    "public_other_task": Arm("heterotune", DISTILLED, public=PUBLIC_OTHER),
    "no_head": _distilled(head_rank=0, distill_every=0),
    "head_only": _distilled(lora_layers=0),
    "last_2_layers": _distilled(lora_layers=2),
    "align_none": _distilled(align="none"),
    "align_pca": _distilled(align="pca"),
    "align_procrustes": _distilled(align="procrustes"),
    "align_gcca": _distilled(align="gcca"),
    "head_rank_16": _distilled(head_rank=16),
    "head_rank_32": _distilled(head_rank=32),
    "gates_trained": _distilled(gates="trained"),
    "silu": _distilled(activation="silu"),
}
CHANGES_BETWEEN_SIBLINGS: Mapping[str, Arm] = {
    "lora_within_type": _distilled(lora_scope="type"),
    "lora_split": _distilled(lora_scope="split"),
    "cmga_none": _distilled(cmga="none"),
}
FORMS: Mapping[str, Arm] = {  # of transfer between widths
    "shared_within_type": _shared(**WITHIN),
    "shared_shrunk_64": _shared(**ANSWERS),
    "shared_realigned": _shared(realign_every=2),
    "shared_shrunk_64_realigned": _shared(**ANSWERS, realign_every=2),
    "shared_public_other_task": Arm("heterotune", SHARED, public=PUBLIC_OTHER),
    "shared_vocabulary": _shared(head_outputs="vocabulary"),
    "shared_all_positions": _shared(align_positions="all"),
}
CMGA: Mapping[str, Arm] = {
    **{f"cmga_{form}": _distilled(cmga=form) for form in ("cagrad", "mgda", "gradvac", "aligned_mtl", "cosine")},
    **{f"cmga_{form}_clients": _distilled(cmga=form, cmga_tasks="clients") for form in ("project", "mgda")},
    **{f"cmga_by_{each}": _distilled(cmga_granularity=each) for each in ("tensor", "branch", "model")},
    "cmga_mgda_not_rescaled": _distilled(cmga="mgda", cmga_rescale=False),
    "shared_cmga_none": _shared(cmga="none"),
    "shared_cmga_mgda": _shared(cmga="mgda"),
}
ALL_ARMS: Mapping[str, Arm] = {**METHODS, **CHANGES, **CHANGES_BETWEEN_SIBLINGS, **FORMS, **CMGA}
CORE = (TWIN, DEFAULT, BASELINE)


@dataclass(frozen=True)
class Cell(SeedCell):
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
    def num_rows(self) -> int:
        """Training rows of the whole fleet."""
        return SETTINGS[self.setting].rows * CLIENTS_OF_TYPE * len(FLEETS[self.fleet])


Block = tuple[Sequence[str], Sequence[str], Sequence[str], Sequence[str]]
"""Tasks, settings, fleets and arms, each with each."""

TABLES: Mapping[str, Sequence[Block]] = {
    "siblings": ((("clinc150",), ("scarce", "skew", "plenty"), ("siblings",), (*METHODS, "lora_within_type")),),
    "main": ((("clinc150",), ("plenty",), ("widths",), (*METHODS,)),),
    "scarce": ((("clinc150",), ("scarce",), ("widths",), (*METHODS,)),),
    "skew": ((("clinc150",), ("skew",), ("widths",), (*METHODS,)),),
    "single": ((("clinc150",), ("scarce", "plenty"), ("one",), (TWIN, BASELINE, "local_only")),),
    "ablation": (
        (("clinc150",), ("scarce",), ("siblings",), (*CORE, *CHANGES_BETWEEN_SIBLINGS, *CHANGES)),
        (("clinc150",), ("scarce",), ("widths",), (*CORE, *CHANGES)),
    ),
    "forms": ((("clinc150",), ("scarce", "skew"), ("widths",), (*CORE, "shared", "distill_heads_only", *FORMS)),),
    "other": ((("banking77", "dolly", "shakespeare"), ("scarce",), ("siblings", "widths"), CORE),),
    "cmga": ((("clinc150",), ("skew",), ("siblings",), (*CORE, "shared", "cmga_none", *CMGA)),),
    "rounds": (
        (("clinc150",), ("scarce", "scarce_8x8", "scarce_8x20", "scarce_22x8"), ("siblings", "widths"), CORE),
        (("clinc150",), ("scarce_22x8",), ("siblings", "widths"), ("distill_every_2",)),
    ),
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
    if arm.strategy == "fedproto":  # its models stay with the clients
        config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"own_adapters": "all_rows"})})
    return equalised(config, parse_run(_values(cell, ALL_ARMS[TWIN], task, family, rates)))


def equalised(config: RunConfig, other: RunConfig) -> RunConfig:
    """Return a run whose model types get the LoRA rank at which each trains about as much as the other run's do.

    Args:
        config: A run whose only ranks are those of `adapter_rank`.
        other: A run of the same models; each may be several types of one client in the first.
    """
    wanted = {name: sum(count) for name, count in _trained(other).items()}
    ranks = {}
    for name, (in_branches, besides) in _trained(config).items():
        per_rank = in_branches / getattr(config, config.strategy).adapter_rank
        ranks[name] = round((wanted[model_of(name)] - besides) / per_rank)
    fleet = [entry.model_copy(update={"adapter_rank": ranks[entry.name]}) for entry in config.fleet]
    return config.model_copy(update={"fleet": tuple(fleet)})


def _trained(config: RunConfig) -> dict[str, tuple[int, int]]:
    """Return model type -> elements that train in branches beside linears, and elsewhere."""
    model_types = read_model_types(config.fleet)
    found = {}
    for model_type in model_types:
        layout = adapter_layout(config.strategy, config, model_type, model_types)
        in_branches = {name for branch in layout.branches for name in (branch.up, branch.down)}
        sizes = {spec.name: spec.num_elements for spec in layout.tensors if spec.trains}
        inside = sum(size for name, size in sizes.items() if name in in_branches)
        found[model_type.name] = inside, sum(sizes.values()) - inside
    return found


def _values(cell: Cell, arm: Arm, task: PreparedTask, family: Path, rates: Mapping[str, float]) -> dict[str, Any]:
    """Return the values of a run file."""
    options, setting = dict(arm.options), SETTINGS[cell.setting]
    if arm.strategy == "heterotune":
        options["head_learning_rate_scale"] = rates["head"]
        if options["head_outputs"] == "labels":
            options["head_basis"] = len(task.word_of)  # as the run finds: a token each
    return {
        **SHARED_RUN,
        "name": "evidence",
        "rounds": setting.rounds,
        "evaluate": {**SHARED_RUN["evaluate"], "every_rounds": setting.rounds},
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
        "local": {**LOCAL, "steps": setting.steps, "learning_rate": rates["lora"]},
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
