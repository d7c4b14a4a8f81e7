"""The headline experiment: one federation as FedAvg of whole models, as FedAvg of LoRA, and as HeteroTune.

    bash tools/experiments/headline.sh                  # runs, memory, wire, then tables and plots in docs/results/
    bash tools/experiments/headline.sh --only tuning    # pick learning rates on a seed that is not reported
    bash tools/experiments/headline.sh --quick          # does everything still run? (tables go to the work folder)

What is done is not done again: every piece leaves its answer in the work folder, beside what was asked.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "tools" / "benchmarks"), str(REPOSITORY / "engine")]

from headline_report import FULL, PLAIN, MethodRun  # noqa: E402
from headline_tables import write_report  # noqa: E402
from tables import commit_of  # noqa: E402

from heterotune.config.load import load_run  # noqa: E402
from heterotune.fleet.model_types import read_model_types  # noqa: E402
from heterotune.launching.mpirun import find_mpirun, mpirun_prefix, worker_command  # noqa: E402
from heterotune.launching.worker_environment import gpu_is_usable, usable_cores, worker_variables  # noqa: E402

HERE = Path(__file__).parent
STAGES = ("runs", "memory", "wire", "report")
ANSWER = "answer.json"


@dataclass(frozen=True)
class Experiment:
    """What to do and where.

    Attributes:
        plan: The YAML file's content.
        work: Folder of all pieces.
    """

    plan: dict[str, Any]
    work: Path

    @property
    def methods(self) -> list[str]:
        """Strategies, whole models first."""
        return list(self.plan["methods"])

    def learning_rate(self, method: str) -> float:
        """Return the method's own rate."""
        return self.plan["methods"][method]["learning_rate"]

    def settings(self, method: str, seed: int, rate: float, *more: str) -> list[str]:
        """Return a run's `key=value` overrides."""
        base = [f"strategy={method}", "compare_with=[]", f"seed={seed}", f"local.learning_rate={rate}"]
        return [*base, "checkpoint.every_rounds=0", *self.plan["settings"], *more]

    @property
    def first_seed(self) -> int:
        """The seed of what is done once."""
        return self.plan["seeds"][0]


def main() -> int:
    """Run the stages. Returns the process's exit code."""
    options = _parse()
    plan = yaml.safe_load(options.config.read_text(encoding="utf-8"))
    quick = plan.pop("quick")
    if options.quick:
        plan = _merged(plan, quick)
    name = options.config.stem + ("-quick" if options.quick else "")
    work = options.work or REPOSITORY / "runs" / name
    experiment, started = Experiment(plan, work), time.perf_counter()
    for stage in (options.only,) if options.only else STAGES:
        if stage == "report":
            out = options.out or (work if options.quick else REPOSITORY / "docs" / "results")
            write_report(out, options.config.stem, **report_parts(experiment))
        else:
            {"runs": runs, "tuning": tuning, "memory": memory, "wire": wire}[stage](experiment)
    print(f"{name}: {time.perf_counter() - started:.0f} s, work folder {work}", flush=True)
    return 0


def runs(experiment: Experiment) -> None:
    """Run every method with every seed."""
    for seed in experiment.plan["seeds"]:
        for method in experiment.methods:
            rate, rounds = experiment.learning_rate(method), f"rounds={experiment.plan['rounds']}"
            _run(experiment, f"runs/{method}-{seed}", experiment.settings(method, seed, rate, rounds))


def tuning(experiment: Experiment) -> None:
    """Run every method with each of its candidate rates on the seed that is not reported; print what came out."""
    chosen = experiment.plan["tuning"]
    assert chosen["seed"] not in experiment.plan["seeds"]
    for method, rates in chosen["learning_rates"].items():
        for rate in rates:
            settings = experiment.settings(method, chosen["seed"], rate, f"rounds={chosen['rounds']}")
            folder = _run(experiment, f"tuning/{method}-{rate:g}", settings)
            losses = MethodRun(method, chosen["seed"], folder).fleet_losses
            print(f"{method} at {rate:g}: " + ", ".join(f"{loss:.4f}" for loss in losses.values()), flush=True)


def memory(experiment: Experiment) -> None:
    """Measure what an empty process takes, plain fine-tuning of one client, and one round of each method."""
    cases = str(HERE / "headline_cases.py")
    _measure(experiment, "memory/runtime", [cases, "runtime"])
    widest = max(read_model_types(load_run(_run_file(experiment)).fleet), key=lambda each: each.num_parameters)
    base = experiment.settings(FULL, experiment.first_seed, experiment.learning_rate(FULL))
    plain = [cases, "plain_full", str(_run_file(experiment))]
    _measure(experiment, "memory/fleet-plain", [*plain, widest.name, *base])
    for name, shape in experiment.plan["memory"].items():
        fleet = f"fleet=[{{name: model, model: '{shape['model']}', clients: 1}}]"
        alone = [fleet, "cohort.fraction=1.0", "cohort.clients=null", "chunk.clients=1", *shape["settings"]]
        _measure(experiment, f"memory/{name}-plain", [*plain, "model", *base, *alone])
        for method in experiment.methods:
            settings = experiment.settings(method, experiment.first_seed, experiment.learning_rate(method), *alone)
            _run(experiment, f"memory/{name}-{method}", settings, num_ranks=shape["ranks"])


def wire(experiment: Experiment) -> None:
    """Encode a client's round at the shape of a large model with every method."""
    for method in experiment.methods:
        script = [str(HERE / "headline_wire.py"), method, experiment.plan["wire"]["model"]]
        _measure(experiment, f"wire/{method}", script)


def report_parts(experiment: Experiment) -> dict[str, Any]:
    """Return what the report needs, from the work folder.

    Raises:
        SystemExit: If a piece is not there yet.
    """
    plan, work = experiment.plan, experiment.work
    all_runs = [
        MethodRun(method, seed, work / "runs" / f"{method}-{seed}")
        for method in experiment.methods
        for seed in plan["seeds"]
    ]
    alone = {
        name: [MethodRun(method, experiment.first_seed, work / f"memory/{name}-{method}") for method in plan["methods"]]
        for name in plan["memory"]
    }
    folders = [run.folder for run in (*all_runs, *itertools.chain(*alone.values()))]
    if missing := [folder for folder in folders if not (folder / "summary.json").is_file()]:
        text = f"{len(missing)} runs are not done yet, for example {missing[0]}"
        raise SystemExit(f"{text}. Run headline.sh without --only.")
    first = [run for run in all_runs if run.seed == experiment.first_seed]
    return {
        "plan": plan,
        "runs": all_runs,
        "peaks": {plan["title"]: _peaks(work / "memory/fleet-plain", first)}
        | {plan["memory"][name]["title"]: _peaks(work / f"memory/{name}-plain", mine) for name, mine in alone.items()},
        "runtime_bytes": _answer(work / "memory/runtime")["peaks"]["host_resident"]["all"],
        "wire": [_answer(work / "wire" / method) for method in experiment.methods],
        "commits": sorted({json.loads(path.read_text())["commit"] for path in work.glob("*/*.done.json")}),
    }


def _peaks(plain: Path, runs_of_methods: Sequence[MethodRun]) -> dict[str, Any]:
    """Return method -> kind -> peaks, plain fine-tuning last."""
    return {run.method: run.peak_bytes() for run in runs_of_methods} | {PLAIN: _answer(plain)["peaks"]}


def _run(experiment: Experiment, name: str, settings: Sequence[str], num_ranks: int | None = None) -> Path:
    """Run a federation to its end, or go on with one; returns its run folder."""
    num_ranks = num_ranks or experiment.plan["ranks"]
    folder = experiment.work / name
    prefix = []
    if num_ranks > 1:
        prefix = mpirun_prefix(find_mpirun(), num_ranks, num_cores=usable_cores(), as_root=os.geteuid() == 0)

    def run() -> None:
        command = worker_command(prefix, _run_file(experiment), folder, resume=True, overrides=settings)
        subprocess.run(command, check=True, env=_environment())

    _once(experiment, name, {"settings": list(settings), "ranks": num_ranks}, run)
    return folder


def _measure(experiment: Experiment, name: str, script: Sequence[str]) -> None:
    """Run a measurement in a process of its own; its answer is in the folder of that name."""

    def measure() -> None:
        answer = experiment.work / name / ANSWER
        subprocess.run([sys.executable, *script, "--answer", str(answer)], check=True, env=_environment())

    _once(experiment, name, {"script": [Path(word).name for word in script]}, measure)


def _once(experiment: Experiment, name: str, asked: Mapping[str, Any], do: Callable[[], None]) -> None:
    """Do a piece in a folder of its own unless it is done; what was begun for another question is thrown away."""
    folder, done = experiment.work / name, experiment.work / f"{name}.done.json"
    begun = experiment.work / f"{name}.asked.json"
    if done.is_file() and json.loads(done.read_text())["asked"] == asked:
        return
    if not begun.is_file() or json.loads(begun.read_text()) != asked:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    begun.write_text(json.dumps(asked))
    print(f"{name} ...", flush=True)
    started = time.perf_counter()
    do()
    done.write_text(
        json.dumps({"asked": asked, "commit": commit_of(REPOSITORY), "seconds": time.perf_counter() - started})
    )


def _answer(folder: Path) -> dict[str, Any]:
    return json.loads((folder / ANSWER).read_text())


def _run_file(experiment: Experiment) -> Path:
    return REPOSITORY / experiment.plan["run"]


def _environment() -> dict[str, str]:
    """Return what the engine's launcher would give its ranks."""
    variables = worker_variables(os.environ, threads_per_rank="auto", has_gpu=gpu_is_usable())
    return {**os.environ, **variables, "PYTHONPATH": str(REPOSITORY / "engine"), "PYTHONWARNINGS": "ignore"}


def _merged(plan: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plan with other values in some places."""
    merged = dict(plan)
    for key, value in changes.items():
        merged[key] = _merged(merged[key], value) if isinstance(value, dict) else value
    return merged


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", type=Path, default=HERE / "headline.yaml", help="the experiment")
    parser.add_argument("--only", choices=[*STAGES, "tuning"], help="one stage")
    parser.add_argument("--quick", action="store_true", help="tiny counts and models")
    parser.add_argument("--work", type=Path, help="where the pieces go; default runs/NAME")
    parser.add_argument("--out", type=Path, help="where tables and plots go; default docs/results")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
