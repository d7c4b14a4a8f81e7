"""`heterotune submit`: a run in Slurm's queue."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from heterotune.commands.arguments import AsJson, Overrides, RunFile, named_or_default
from heterotune.commands.ending import errors_end_the_command


def submit(
    run_yaml: RunFile = None,
    nodes: Annotated[int, typer.Option(help="Nodes of the job.")] = 1,
    ranks_per_node: Annotated[int, typer.Option(help="MPI ranks on each node.")] = 1,
    gpus_per_node: Annotated[int | None, typer.Option(help="GPUs on each node.")] = None,
    cpus_per_rank: Annotated[int | None, typer.Option(help="CPU cores of each rank.")] = None,
    partition: Annotated[str | None, typer.Option(help="Partition.")] = None,
    account: Annotated[str | None, typer.Option(help="Account to charge.")] = None,
    time_limit: Annotated[
        str | None, typer.Option("--time", help="Time limit: 90 (minutes), 12:00:00 or 1-12:00:00.")
    ] = None,
    array: Annotated[str | None, typer.Option(metavar="SEEDS", help="One job per seed: 1-5, 1,2,7 or 1-100%8.")] = None,
    container: Annotated[str | None, typer.Option(metavar="IMAGE", help="Apptainer image for the ranks.")] = None,
    via: Annotated[str, typer.Option(help="What starts the ranks: auto, mpirun, srun or deepspeed.")] = "auto",
    signal_seconds: Annotated[
        int, typer.Option(help="Seconds before the time limit at which the run saves and stops.")
    ] = 120,
    sbatch_options: Annotated[
        list[str] | None, typer.Option("--sbatch-option", metavar="name=value", help="Any other; repeatable.")
    ] = None,
    overrides: Overrides = None,
    run_dir: Annotated[Path | None, typer.Option(help="Run folder; default: a new one in the run's output.")] = None,
    python: Annotated[Path | None, typer.Option(help="Python on the nodes; default: this one.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the script; make and submit nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job; return its exit code.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a Slurm batch script for a run, and submit it."""
    from heterotune.launching.batch_request import BatchRequest
    from heterotune.submit_command import submit_run

    request = BatchRequest(
        nodes=nodes,
        ranks_per_node=ranks_per_node,
        gpus_per_node=gpus_per_node,
        cpus_per_rank=cpus_per_rank,
        partition=partition,
        account=account,
        time=time_limit,
        array=array,
        container=container,
        via=via,
        signal_seconds=signal_seconds,
        options=tuple(sbatch_options or ()),
    )
    with errors_end_the_command():
        named = None if run_dir is None else run_dir.absolute()
        code = submit_run(
            named_or_default(run_yaml),
            overrides or [],
            request,
            named,
            str(python or sys.executable),
            dry_run=dry_run,
            wait=wait,
            as_json=as_json,
        )
    raise typer.Exit(code)
