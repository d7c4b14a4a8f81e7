"""`heterotune plan`: will a run fit, and how long will it take."""

from __future__ import annotations

from typing import Annotated

import typer

from heterotune.commands.arguments import AsJson, Overrides, RunFile, named_or_default
from heterotune.commands.ending import errors_end_the_command


def plan(
    run_yaml: RunFile = None,
    nodes: Annotated[int, typer.Option(help="Nodes of the job.")] = 1,
    ranks_per_node: Annotated[int, typer.Option(help="MPI ranks on each node.")] = 1,
    gpus_per_node: Annotated[int, typer.Option(help="GPUs on each node; 0 = compute on the CPU.")] = 0,
    gpu_memory: Annotated[str | None, typer.Option(help="Memory of one GPU, e.g. 80GiB.")] = None,
    host_memory: Annotated[str | None, typer.Option(help="Memory of one node, e.g. 512GiB.")] = None,
    nvme: Annotated[str | None, typer.Option(help="Local disk of one node, e.g. 1TiB.")] = None,
    link_gbps: Annotated[float | None, typer.Option(help="Network of one node, Gbit/s.")] = None,
    flops: Annotated[float | None, typer.Option(help="FLOP/s that one rank reaches, e.g. 1.2e14.")] = None,
    calibration: Annotated[str | None, typer.Option(help="cpu, a100, h100 or a calibration file.")] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run needs and sends, and whether it fits (exit code 1: no). Loads no weights and no data."""
    from heterotune.planning.command import plan_run
    from heterotune.report.terminal import report_console

    machines = {"nodes": nodes, "ranks_per_node": ranks_per_node, "gpus_per_node": gpus_per_node, "nvme": nvme}
    machines |= {"gpu_memory": gpu_memory, "host_memory": host_memory, "link_gbps": link_gbps, "flops": flops}
    with errors_end_the_command():
        fits = plan_run(
            named_or_default(run_yaml),
            overrides or [],
            machines,
            calibration=calibration,
            as_json=as_json,
            console=report_console(),
        )
    raise typer.Exit(0 if fits else 1)
