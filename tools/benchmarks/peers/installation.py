"""The peers' virtual environment: pfl and Flower beside the very torch, transformers and NumPy that heterotune uses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

# Flower 1.42.0 needed a certifi that was not to be had when this was written.
PEERS = ("pfl[pytorch]==0.6.0", "flwr[simulation]==1.41.0", "matplotlib")
SAME_AS_HERE = ("torch", "transformers", "numpy")
REPORTED = (*SAME_AS_HERE, "pfl", "flwr", "ray")


def install(folder: Path, *, say: Callable[[str], None]) -> Path:
    """Make the environment unless it is there already. Returns its Python.

    Args:
        folder: Of the environment; nothing else is in it.
        say: Told when an installation begins.
    """
    python = folder / "bin" / "python"
    wanted = [*PEERS, *(f"{name}=={version(name).partition('+')[0]}" for name in SAME_AS_HERE)]
    done = folder / "installed.json"
    if done.is_file() and json.loads(done.read_text()) == wanted:
        return python
    say(f"installing {' '.join(wanted)} into {folder}")
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
    subprocess.run([*pip, *wanted], check=True)
    done.write_text(json.dumps(wanted))
    return python


def versions(python: Path) -> dict[str, str]:
    """Return the versions in the peers' environment.

    Raises:
        RuntimeError: If a library that both sides use is not the same on both.
    """
    code = f"import importlib.metadata as m, json; print(json.dumps({{name: m.version(name) for name in {REPORTED}}}))"
    found = json.loads(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout)
    if different := [name for name in SAME_AS_HERE if found[name] != version(name)]:
        raise RuntimeError(f"{', '.join(different)}: other versions in {python} than here. Remove that environment.")
    return {"python": sys.version.partition(" ")[0], **found}
