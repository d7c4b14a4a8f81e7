"""The command `heterotune plan`: read the run and the machines, plan, print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from heterotune.config.load import load_run
from heterotune.errors import ConfigError
from heterotune.planning.calibration import load_calibration
from heterotune.planning.cluster import describe_cluster
from heterotune.planning.plan import make_plan, plan_json, setting_of


def plan_run(
    run_yaml: Path,
    overrides: Sequence[str],
    machines: dict[str, object],
    *,
    calibration: str | None,
    as_json: bool,
    console: Console,
) -> bool:
    """Print the plan of a run. Returns whether it fits.

    Args:
        run_yaml: The run file.
        overrides: `a.b=c` each.
        machines: As for `describe_cluster`.
        calibration: A shipped calibration's name, or a file; None = by the kind of device.
        as_json: Print JSON instead of tables.
        console: Where tables go.

    Raises:
        ConfigError: With every problem of run file and machines.
        ModelError: If a model's configuration is missing here.
    """
    from heterotune.planning.table import plan_report

    config = cluster = None
    problems: list[str] = []
    try:
        cluster = describe_cluster(**machines)
        chosen = load_calibration(calibration, has_gpus=cluster.has_gpus)
    except ConfigError as error:
        problems += error.problems
    try:
        config = load_run(run_yaml, overrides)
    except ConfigError as error:
        problems += error.problems
    if problems or config is None or cluster is None:
        raise ConfigError(problems)
    plan = make_plan(setting_of(config, cluster, chosen))
    if as_json:
        print(json.dumps(plan_json(plan), indent=2))
    else:
        console.print(plan_report(plan))
    return plan.layout.fits
