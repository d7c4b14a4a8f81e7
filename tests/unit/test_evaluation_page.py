"""docs/evaluation.md: its run file and its commands work as they stand there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "evaluation.md").read_text()
HETEROTUNE = [sys.executable, "-c", "from heterotune.cli import main; main()"]
RUN, LOOK = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)[0].splitlines()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder in which the page's run file has run."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "RUN.yaml").write_text(re.search(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)[1])
    lines = [
        {"question": f"{n} + {k}?", "options": ["one", "more than one"], "answer": "one", "owner": f"owner {k}"}
        for k in range(3)
        for n in range(6)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    program, *arguments = shlex.split(RUN)
    assert program == "heterotune"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "engine"), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*HETEROTUNE, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert "right answers (%)" in ended.stdout
    return folder


@pytest.mark.timeout(180)
def test_the_run_writes_every_metric_that_the_page_names(finished) -> None:
    (run,) = (finished / "runs").iterdir()
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    tables = re.findall(r"^\|[^|]*\| `([a-z_]+/[a-z_]+)`|^\| `([a-z_]+/[a-z_]+)`", PAGE, flags=re.MULTILINE)
    named = {first or second for first, second in tables}
    assert len(named) == 7 and named <= {entry["name"] for entry in entries}
    assert "metrics: [loss, accuracy, exact_match]\n" in (run / "config.yaml").read_text()


@pytest.fixture
def server(finished) -> Iterator[str]:
    """The page's TensorBoard, at a port that the system picks; yields its address."""
    program, *arguments = shlex.split(LOOK)
    command = [sys.executable, "-m", f"{program}.main", *arguments, "--port", "0"]
    with subprocess.Popen(command, cwd=finished, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield next(re.search(r"http://\S+/", line)[0] for line in process.stderr if "(Press CTRL+C" in line)
        finally:
            process.terminate()


@pytest.mark.timeout(180)
def test_tensorboard_shows_the_run(finished, server) -> None:
    (run,) = (finished / "runs").iterdir()
    with urllib.request.urlopen(f"{server}data/runs", timeout=60) as answer:
        assert json.load(answer) == [f"{run.name}/tensorboard/heterotune"]
