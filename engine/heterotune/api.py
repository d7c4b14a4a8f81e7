"""The Python interface: plan and run a federation from a script or a notebook, with the results of the command line."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heterotune.config.load import load_run, parse_run
from heterotune.config.overrides import apply_override
from heterotune.config.schema import RunConfig
from heterotune.errors import PREEMPTED, LaunchError, RunFailed, RunStopped
from heterotune.run_folder import METRICS_FILE, RunFolder

if TYPE_CHECKING:
    from torch import Tensor

ConfigLike = RunConfig | Mapping[str, Any] | str | os.PathLike


@dataclass(frozen=True)
class RunResult:
    """What a finished run left in its folder.

    Attributes:
        run_dir: The run folder.
        summary: summary.json: seconds, losses, bytes, peaks of memory, the digest of the global adapters.
    """

    run_dir: Path
    summary: dict[str, Any]

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, in order; `pandas.DataFrame(result.metrics)` makes a table of them."""
        with (self.run_dir / METRICS_FILE).open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    @property
    def digest(self) -> str:
        """SHA-256 of the global adapters: the same for the same run on any number of ranks."""
        return self.summary["global_adapter_sha256"]

    def adapters(self, model_type: str) -> dict[str, Tensor]:
        """Return the global adapters of a model type after the last round: name -> tensor, on the CPU.

        Args:
            model_type: A `name` of the fleet.

        Raises:
            LaunchError: If the run has none of that name.
        """
        from safetensors.torch import load_file

        path = self.run_dir / "adapters" / f"{model_type}.safetensors"
        if not path.is_file():
            known = ", ".join(sorted(self.summary["model_types"])) or "none"
            raise LaunchError(f"{self.run_dir} has no adapters of model type {model_type!r}. It has: {known}.")
        return load_file(path)


def run(
    config: ConfigLike,
    *,
    ranks: int = 1,
    overrides: Sequence[str] = (),
    oversubscribe: bool = False,
    on_status: Callable[[dict[str, Any]], None] = lambda status: None,
) -> RunResult:
    """Run a federation on this machine, in processes of its own, and wait for it: what `heterotune run` does.

    Args:
        config: A run, the path of a run file, or the plain values of one.
        ranks: MPI ranks; 1 = one process without MPI. The global adapters are the same on any number.
        overrides: `a.b=c` each, as `--set` takes them.
        oversubscribe: Allow many more ranks than cores.
        on_status: Called a few times a second with {"state", "round", "rounds", "phase", "loss", ...}.

    Raises:
        ConfigError, ModelError, DataError, LaunchError: Before anything starts, with everything that is wrong.
        RunFailed: With the first failing rank's traceback.
        RunStopped: If somebody asked the run to stop; `resume` goes on.
        KeyboardInterrupt: After Ctrl-C, or a notebook's stop button; the ranks have been ended.
    """
    from heterotune import local_run

    return _finish(local_run.prepare(_as_config(config, overrides), ranks, oversubscribe=oversubscribe), on_status)


def resume(
    run_dir: str | os.PathLike,
    *,
    ranks: int = 1,
    overrides: Sequence[str] = (),
    oversubscribe: bool = False,
    on_status: Callable[[dict[str, Any]], None] = lambda status: None,
) -> RunResult:
    """Go on with a run that stopped or crashed, on any number of ranks; as `run`, and as `heterotune resume`.

    Args:
        run_dir: Its folder.
        ranks: As for `run`.
        overrides: `rounds=20` extends the run; a key that would change its results is refused.
        oversubscribe: As for `run`.
        on_status: As for `run`.
    """
    from heterotune import local_run
    from heterotune.launching.local import open_to_resume

    path = open_to_resume(Path(run_dir)).config_path
    config = load_run(path, overrides, begun=True)
    job = local_run.prepare(config, ranks, earlier=path.parent, overrides=overrides, oversubscribe=oversubscribe)
    return _finish(job, on_status)


def open_run(run_dir: str | os.PathLike) -> RunResult:
    """Return the result of a run that finished earlier.

    Raises:
        LaunchError: If the folder has no summary.
    """
    folder = RunFolder.open(Path(run_dir))
    return RunResult(folder.path, folder.read_summary())


def plan(config: ConfigLike, *, calibration: str | None = None, **machines: Any) -> dict[str, Any]:
    """Return what a run needs and sends, and whether it fits, as `heterotune plan --json` prints it.

    Args:
        config: As for `run`.
        calibration: "cpu", "a100", "h100" or a calibration file; None = by the kind of device.
        **machines: nodes, ranks_per_node, gpus_per_node, gpu_memory="80GiB", host_memory, nvme, link_gbps, flops.

    Raises:
        ConfigError: With every problem of run and machines.
        ModelError: If a model's configuration is missing here.
    """
    from heterotune.planning.calibration import load_calibration
    from heterotune.planning.cluster import describe_cluster
    from heterotune.planning.plan import make_plan, plan_json, setting_of

    cluster = describe_cluster(**machines)
    chosen = load_calibration(calibration, has_gpus=cluster.has_gpus)
    return plan_json(make_plan(setting_of(_as_config(config), cluster, chosen)))


def _as_config(config: ConfigLike, overrides: Sequence[str] = ()) -> RunConfig:
    """Return a checked run, whatever it was given as."""
    if isinstance(config, str | os.PathLike):
        return load_run(Path(config), overrides)
    if isinstance(config, RunConfig) and not overrides:
        return config
    values = config.model_dump(mode="json", exclude_unset=True) if isinstance(config, RunConfig) else config
    return parse_run(functools.reduce(apply_override, overrides, values))


def _finish(job: Any, on_status: Callable[[dict[str, Any]], None]) -> RunResult:
    """Run the ranks to their end."""
    from heterotune.launching.local import failure_text

    folder = job.folder
    code = job.execute(on_status)
    if code == PREEMPTED:
        raise RunStopped(f"{folder.path}: stopped as asked; all is saved. Go on with heterotune.resume.")
    if code != 0:
        raise RunFailed(f"{folder.path}: the run failed (exit code {code}).\n{failure_text(folder)}")
    return RunResult(folder.path, folder.read_summary())
