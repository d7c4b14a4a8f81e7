"""heterotune: federated fine-tuning of heterogeneous LLaMA fleets, simulated on HPC clusters.

Three lines in a script or a notebook:

    from heterotune import RunConfig, run
    result = run(RunConfig.from_yaml("run.yaml"), ranks=2)
    print(result.summary["global_adapter_sha256"])
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "RunConfig": "heterotune.config.schema",
    "RunResult": "heterotune.api",
    "open_run": "heterotune.api",
    "plan": "heterotune.api",
    "resume": "heterotune.api",
    "run": "heterotune.api",
    "ConfigError": "heterotune.errors",
    "DataError": "heterotune.errors",
    "HeterotuneError": "heterotune.errors",
    "LaunchError": "heterotune.errors",
    "ModelError": "heterotune.errors",
    "RunFailed": "heterotune.errors",
    "RunStopped": "heterotune.errors",
}
"""Public name -> where it lives; imported at first use, so that `import heterotune` costs nothing."""

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Names for completion in notebooks."""
    return sorted({*globals(), *_HOMES})
