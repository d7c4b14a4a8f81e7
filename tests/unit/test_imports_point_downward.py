"""The package's layers, read from its import statements: imports point downward, heavy libraries stay in place."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "engine" / "heterotune"

LEVELS = (
    ("errors", "plain_files", "randomness", ""),
    ("config",),
    ("fleet",),
    ("aggregation", "adapters", "backbone", "data"),
    (
        "strategies",
        "training",
        "evaluation",
        "collective",
        "checkpoint",
        "checkpoint_manifest",
        "privacy",
        "run_folder",
        "run_lock",
        "profiling",
        "background",
        "file_digests",
    ),
    (
        "base_change",
        "checkpointing",
        "chunk_training",
        "client_segments",
        "client_store",
        "downlink",
        "federation",
        "fleet_scores",
        "distillation",
        "head_frames",
        "head_maps",
        "head_refresh",
        "saved_state",
        "journal",
        "leaving",
        "memory_attribution",
        "model_checks",
        "peft_dema",
        "pooling",
        "progress_record",
        "protection",
        "resuming",
        "round_notes",
        "round_outcome",
        "round_plan",
        "round_progress",
        "secure_round",
        "server",
        "single_updates",
        "topology",
        "training_reports",
        "uplink",
        "virtual_time",
    ),
    (
        "chunk_tuning",
        "launching",
        "doctor",
        "export",
        "local_run",
        "placing",
        "planning",
        "preflight",
        "report",
        "runner",
        "simulation",
        "starter",
        "status",
        "summary",
    ),
    (
        "compare_command",
        "data_command",
        "ledger_command",
        "profile_command",
        "report_command",
        "strategies_command",
        "submit_command",
        "worker",
    ),
    ("api", "cli", "commands"),
)
"""From the bottom up; a name is a package or a module at the top of heterotune, "" is heterotune/__init__.py."""

ONLY_IN = {"mpi4py": ("collective/mpi.py",), "deepspeed": ("backbone/",)}
NEVER_IN_CONFIG = ("torch", "mpi4py", "deepspeed", "transformers")

FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def imported_modules(source: str) -> Iterator[str]:
    """Yield the dotted name of every import in a source text, also of those inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_of(file: str) -> list[str]:
    return list(imported_modules((PACKAGE / file).read_text(encoding="utf-8")))


def layer_of(file: str) -> str:
    """The package or module at the top of heterotune that a file belongs to."""
    return file.split("/")[0].removesuffix(".py").removeprefix("__init__")


def imported_layers(file: str) -> set[str]:
    """Which layers of heterotune a file imports, other than its own."""
    layers = set()
    for name in imports_of(file):
        parts = name.split(".")
        if parts[0] == "heterotune":
            top = parts[1] if len(parts) > 1 else ""
            is_module = (PACKAGE / top).is_dir() or (PACKAGE / f"{top}.py").is_file()
            layers.add(top if is_module else "")
    return layers - {layer_of(file)}


def level(layer: str) -> int:
    for height, names in enumerate(LEVELS):
        if layer in names:
            return height
    raise AssertionError(f"{layer} is in no level of LEVELS: say where it belongs")


@pytest.mark.parametrize("file", FILES)
def test_imports_point_downward_or_sideways(file: str) -> None:
    upward = [layer for layer in imported_layers(file) if level(layer) > level(layer_of(file))]
    assert not upward, f"{file} (level {level(layer_of(file))}) imports {upward}"


def test_layers_form_no_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for file in FILES:
        graph.setdefault(layer_of(file), set()).update(imported_layers(file))
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_imported_only_where_it_belongs(library: str) -> None:
    importers = [file for file in FILES if library in {name.split(".")[0] for name in imports_of(file)}]
    assert importers, f"nothing imports {library}: this test looks at the wrong files"
    assert [file for file in importers if not file.startswith(ONLY_IN[library])] == []


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("config/")])
def test_config_imports_no_heavy_library(file: str) -> None:
    assert not {name.split(".")[0] for name in imports_of(file)} & set(NEVER_IN_CONFIG)


def test_loading_a_config_loads_no_heavy_library() -> None:
    program = f"import sys, heterotune.config.load; print(sorted(set({NEVER_IN_CONFIG!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_planning_loads_no_heavy_library() -> None:
    program = f"import sys, heterotune.planning.command; print(sorted(set({NEVER_IN_CONFIG!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_imports_inside_functions_are_seen() -> None:
    source = "import a.b\ndef f():\n    from c.d import e\n"
    assert list(imported_modules(source)) == ["a.b", "c.d.e"]
