"""The wheel, installed outside the repository: `heterotune init && heterotune run`, and the same run from Python."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 240
SETTINGS = ("rounds=1", "local.steps=2", "evaluate.max_rows=8")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel of this checkout. Its build back end comes from this environment, else from the package index."""
    folder = tmp_path_factory.mktemp("wheel")
    offline = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *offline, "--wheel-dir", str(folder)]
    done = subprocess.run([*pip, str(ROOT)], capture_output=True, text=True, timeout=LIMIT_SECONDS)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("heterotune-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory) -> Path:
    """The folder of commands of a new environment: the wheel, and this environment's other packages."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    # A path in a .pth file brings packages but not editable installs, so the checkout stays out of sight.
    purelib = next(home.glob("lib/python*/site-packages"))
    (purelib / "shared.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    done = subprocess.run(
        [*pip, "--ignore-installed", str(wheel)], capture_output=True, text=True, timeout=LIMIT_SECONDS
    )
    assert done.returncode == 0, done.stderr
    return home / "bin"


def call(command: list[str | Path], folder: Path, installed: Path) -> str:
    """Run a command outside the repository, without the variables that would show it the checkout."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OMPI_", "PMIX_"))}
    environ["PATH"] = os.pathsep.join([str(installed), str(Path(sys.executable).parent), environ["PATH"]])
    environ |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=environ, capture_output=True, text=True, timeout=LIMIT_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_has_what_a_run_needs(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    embedded = [
        f"backbone/embedded/{name}" for name in ("tokenizer.json", "small/model.safetensors", "large/config.json")
    ]
    for name in (
        *embedded,
        "devices.yaml",
        "ds_configs/zero3_cpu.json",
        "ds_configs/zero3_gpu.json",
        "ds_configs/zero3_nvme.json",
    ):
        assert f"heterotune/{name}" in names
    assert not [name for name in names if name.startswith(("tests/", "tools/")) or "__pycache__" in name]


@pytest.mark.timeout(LIMIT_SECONDS)
def test_init_and_run_and_the_same_run_from_python(installed: Path, tmp_path: Path) -> None:
    where = call([installed / "python", "-c", "import heterotune; print(heterotune.__file__)"], tmp_path, installed)
    assert Path(where.strip()).is_relative_to(installed.parent)
    call(["heterotune", "init", "--quiet"], tmp_path, installed)
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    told = json.loads(call(["heterotune", "run", "--json", *settings], tmp_path, installed))
    assert Path(told["run_dir"]).parent == tmp_path / "runs"
    program = (
        "from heterotune import RunConfig, run\n"
        f"result = run(RunConfig.from_yaml('run.yaml', {list(SETTINGS)!r}), ranks=2)\n"
        "print(result.digest, sorted(result.adapters('small'))[0] != '', len(result.metrics) > 10)"
    )
    said = call([installed / "python", "-c", program], tmp_path, installed)
    assert said.split() == [told["summary"]["global_adapter_sha256"], "True", "True"]
    states = [
        json.loads(call(["heterotune", "status", path, "--json"], tmp_path, installed))["state"]
        for path in sorted((tmp_path / "runs").glob("first-run-*"))
    ]
    assert states == ["finished", "finished"]
