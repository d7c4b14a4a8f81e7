"""The command `heterotune`. Thin: each command calls functions elsewhere and turns errors into exit codes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from heterotune import __version__
from heterotune.config.load import load_run
from heterotune.errors import PREEMPTED, ConfigError, HeterotuneError

app = typer.Typer(
    help="Federated fine-tuning of heterogeneous LLaMA fleets, simulated on HPC clusters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@contextmanager
def _errors_end_the_command() -> Iterator[None]:
    """Print what a user can cause without a traceback; 2 = nothing was started, 1 = it failed."""
    try:
        yield
    except HeterotuneError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Federated fine-tuning of heterogeneous LLaMA fleets, simulated on HPC clusters."""


@app.command()
def run(
    run_yaml: Annotated[Path | None, typer.Argument(metavar="[RUN.yaml]", help="The run file.")] = None,
    ranks: Annotated[int, typer.Option(help="MPI ranks on this machine; 1 = one process without MPI.")] = 1,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="a.b=c", help="Override a key; repeatable.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder in which the run folder is made.")] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN_DIR", help="Go on with an earlier run instead of a run file.")
    ] = None,
    oversubscribe: Annotated[bool, typer.Option("--oversubscribe", help="Allow many more ranks than cores.")] = False,
    profile_startup: Annotated[
        bool, typer.Option("--profile-startup", help="Say where the seconds before round 1 went.")
    ] = False,
) -> None:
    """Run a federation on this machine and show what came out of it."""
    from heterotune import preflight
    from heterotune.doctor import prepare_run
    from heterotune.launching.local import failure_text, open_to_resume, run_local
    from heterotune.launching.num_ranks import check_num_ranks
    from heterotune.launching.progress import saved_rounds, told
    from heterotune.launching.worker_environment import usable_cores
    from heterotune.profiling.timing import Stopwatch
    from heterotune.report.live_display import LiveDisplay
    from heterotune.report.terminal import final_report, report_console, startup_table
    from heterotune.run_folder import RunFolder

    console, startup = report_console(), Stopwatch()
    startup.add("launcher: imports", time.process_time())  # a script may have become this process by exec
    with _errors_end_the_command():
        settings = [*(overrides or []), *([f"output={output}"] if output else [])]
        earlier = None if resume is None else open_to_resume(resume)
        config = load_run(_run_file(run_yaml, output, None if earlier is None else earlier.config_path), settings)
        check_num_ranks(config, ranks, num_cores=usable_cores(), oversubscribe=oversubscribe)
        with startup.phase("launcher: doctor"):
            prepare_run(config, ranks, lambda message: console.print(message, markup=False))
        with startup.phase("launcher: models, tokenizer, data"):
            preflight.check(config)
        folder = earlier or RunFolder.create(config, config.output, config.name)
        console.print(f"run folder {folder.path}", markup=False, highlight=False, soft_wrap=True)
        folder.status({"state": "starting", "rounds": config.rounds})
        options = {"threads_per_rank": config.threads_per_rank, "resume": earlier is not None}
        options["overrides"] = () if earlier is None else tuple(settings)  # a new run's are in its config.yaml
        try:
            with LiveDisplay(console) as display:
                code = run_local(folder, ranks, **options, on_status=display.show)
        except KeyboardInterrupt:
            interrupted = "Interrupted; the ranks were ended. What there is is in"
            typer.echo(f"{interrupted} {folder.path}; go on with `heterotune run --resume {folder.path}`.", err=True)
            raise typer.Exit(130) from None
        if code == PREEMPTED:
            saved = told(saved_rounds(folder.path))
            typer.echo(f"Stopped, saved after {saved}; go on with `heterotune run --resume {folder.path}`.", err=True)
            raise typer.Exit(code)
        if code != 0:
            failed = f"The run failed (exit code {code}); its folder is {folder.path}."
            typer.echo(f"{failed}\n{failure_text(folder)}", err=True)
            raise typer.Exit(1)
        summary = folder.read_summary()
        if profile_startup:
            console.print(startup_table({**startup.drain(), **summary["startup"]}))
        console.print(final_report(summary, folder.path))


def _run_file(run_yaml: Path | None, output: Path | None, saved: Path | None) -> Path:
    """Return the run file to read: the one that was named, or that of the run to go on with."""
    if saved is None:
        if run_yaml is None:
            raise ConfigError(["RUN.yaml is missing. Name a run file, or an earlier run with --resume RUN_DIR."])
        return run_yaml
    given = {"RUN.yaml": run_yaml, "--output": output}
    reason = "does not go with --resume, which goes on in the folder of the run as it was. Leave it out."
    if problems := [f"{name} = {value} {reason}" for name, value in given.items() if value is not None]:
        raise ConfigError(problems)
    return saved


@app.command()
def submit(
    run_yaml: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="The run file.")],
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
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="a.b=c", help="Override a key; repeatable.")
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Run folder; default: a new one in the run's output.")] = None,
    python: Annotated[Path | None, typer.Option(help="Python on the nodes; default: this one.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the script; make and submit nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job; return its exit code.")] = False,
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
    with _errors_end_the_command():
        named = None if run_dir is None else run_dir.absolute()
        code = submit_run(
            run_yaml, overrides or [], request, named, str(python or sys.executable), dry_run=dry_run, wait=wait
        )
    raise typer.Exit(code)


@app.command()
def ledger(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The run folder.")],
    by: Annotated[
        str | None,
        typer.Option(help="Sum by: round,client,type,direction,group; with --traffic round,mpi_rank,what."),
    ] = None,
    traffic: Annotated[
        bool, typer.Option("--traffic", help="What the simulator's ranks moved, instead of what clients would send.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Sum the bytes of a run: what its clients would send and get, or what the simulator itself moved."""
    from heterotune.ledger_command import show_ledger
    from heterotune.report.terminal import report_console

    with _errors_end_the_command():
        if as_json and as_csv:
            raise ConfigError(["--json and --csv exclude each other. Choose one."])
        form = "json" if as_json else "csv" if as_csv else "table"
        show_ledger(run_dir, by, traffic=traffic, form=form, console=report_console())


@app.command()
def export(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The run folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    model_type: Annotated[str, typer.Option(help="Name of the model type in the run's fleet.")],
    best: Annotated[bool, typer.Option("--best", help="After the best round instead of after the last.")] = False,
    round_number: Annotated[int | None, typer.Option("--round", help="After this round, if it is saved.")] = None,
    strategy: Annotated[str | None, typer.Option(help="One of compare_with instead of the run's own.")] = None,
    client: Annotated[int | None, typer.Option(help="With this client's personal branch.")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="A whole model instead of an adapter.")] = False,
    without_head: Annotated[bool, typer.Option("--without-head", help="Leave the shared head branch out.")] = False,
    drop_head_bias: Annotated[
        bool, typer.Option("--drop-head-bias", help="With --merge: leave out the bias that a LLaMA cannot hold.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="fp32, bf16 or fp16 of what is written.")] = "auto",
    base: Annotated[Path | None, typer.Option(help="Folder for the frozen base model; default: OUT/base.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
) -> None:
    """Write a model type's adapter as a stock PEFT LoRA adapter, or merged into a whole model."""
    with _errors_end_the_command():
        if best and round_number is not None:
            raise ConfigError(["--best and --round exclude each other. Choose one."])
        if without_head and drop_head_bias:
            raise ConfigError(["--without-head and --drop-head-bias exclude each other. Choose one."])
        from heterotune.export.command import ExportForm, export_adapter
        from heterotune.export.run_adapter import Choice

        head = "without" if without_head else "no-bias" if drop_head_bias else "whole"
        for line in export_adapter(
            run_dir,
            out,
            Choice(model_type, strategy, best, round_number, client),
            ExportForm(merge, head, dtype, base, force),
        ):
            typer.echo(line)


@app.command()
def plan(
    run_yaml: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="The run file.")],
    nodes: Annotated[int, typer.Option(help="Nodes of the job.")] = 1,
    ranks_per_node: Annotated[int, typer.Option(help="MPI ranks on each node.")] = 1,
    gpus_per_node: Annotated[int, typer.Option(help="GPUs on each node; 0 = compute on the CPU.")] = 0,
    gpu_memory: Annotated[str | None, typer.Option(help="Memory of one GPU, e.g. 80GiB.")] = None,
    host_memory: Annotated[str | None, typer.Option(help="Memory of one node, e.g. 512GiB.")] = None,
    nvme: Annotated[str | None, typer.Option(help="Local disk of one node, e.g. 1TiB.")] = None,
    link_gbps: Annotated[float | None, typer.Option(help="Network of one node, Gbit/s.")] = None,
    flops: Annotated[float | None, typer.Option(help="FLOP/s that one rank reaches, e.g. 1.2e14.")] = None,
    calibration: Annotated[str | None, typer.Option(help="cpu, a100, h100 or a calibration file.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="a.b=c", help="Override a key; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Say what a run needs and sends, and whether it fits (exit code 1: no). Loads no weights and no data."""
    from heterotune.planning.command import plan_run
    from heterotune.report.terminal import report_console

    machines = {"nodes": nodes, "ranks_per_node": ranks_per_node, "gpus_per_node": gpus_per_node, "nvme": nvme}
    machines |= {"gpu_memory": gpu_memory, "host_memory": host_memory, "link_gbps": link_gbps, "flops": flops}
    with _errors_end_the_command():
        fits = plan_run(
            run_yaml, overrides or [], machines, calibration=calibration, as_json=as_json, console=report_console()
        )
    raise typer.Exit(0 if fits else 1)


@app.command()
def doctor(
    ds_config: Annotated[str, typer.Option(help="As in backbone.ds_config; its ops are built.")] = "zero3_cpu",
    fix: Annotated[bool, typer.Option("--fix", help="Clear stale build locks.")] = False,
) -> None:
    """Check what this machine has for a run: versions, MPI, compiler, GPU, DeepSpeed's compiled ops and their locks."""
    from heterotune.doctor import examine

    console = Console()
    with _errors_end_the_command():
        checks = examine(ds_config, fix=fix, say=lambda message: console.print(message, markup=False))
    table = Table(title="heterotune doctor", show_lines=False)
    for column in ("", "check", "found"):
        table.add_column(column, overflow="fold")
    for check in checks:
        detail = check.detail if check.ok else f"{check.detail}\n-> {check.fix}"
        table.add_row("ok" if check.ok else "NO", check.name, detail)
    console.print(table)
    raise typer.Exit(0 if all(check.ok for check in checks) else 1)


@app.command()
def profile(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The run folder.")],
    trace: Annotated[
        bool, typer.Option("--trace", help="Write a Chrome trace of the newest round: open it in ui.perfetto.dev.")
    ] = False,
) -> None:
    """Show what memory every MPI rank needed in every phase, and write it as table and plot."""
    from heterotune.profile_command import profile_run
    from heterotune.report.terminal import report_console

    with _errors_end_the_command():
        profile_run(run_dir, report_console(), trace=trace)


def main() -> None:
    """Entry point of the installed command."""
    sys.exit(app())
