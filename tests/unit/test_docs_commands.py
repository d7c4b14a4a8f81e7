"""Every fenced shell command of README.md and docs/*.md is run here, or is run elsewhere, or says what it needs.

`heterotune ...` is really called, in this process, on a finished run, with everything but the ranks and Slurm: a new
page with such commands needs nothing here. For any other command add one line to `OTHERS`. Commands and options that
are named in the running text must exist, too.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import typer.main
from typer.testing import CliRunner

from heterotune.cli import app
from heterotune.config.load import load_run
from heterotune.errors import ConfigError
from heterotune.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

OTHERS = {
    r"bash launch/demo.sh": "tests/unit/test_scripts.py",
    r"bash tests/run.sh": "tests/unit/test_scripts.py",
    r"mpirun -n 2 python -m mpi4py -m heterotune.worker .*": "tests/multirank/test_whole_run.py",
    r"touch RUN_DIR/stop": "tests/multirank/test_resume.py",
    r"mkdir -p RUN_DIR/logs": "tests/cluster/test_launchers.py",
    r"cp RUN.yaml RUN_DIR/config.yaml": "tests/cluster/test_launchers.py",
    r"python tools/experiments/compare_strategies\.py .*": "tests/unit/benchmarks/test_compare_strategies.py",
    r"python tools/pretrain_english_family\.py .*": "tests/unit/benchmarks/test_english_family.py",
    r"python tools/experiments/evidence\.py .*": "tests/unit/benchmarks/test_evidence.py",
    r"bash tools/experiments/evidence\.sh .*": "tests/unit/benchmarks/test_evidence.py",
    r"qsub .*": "needs PBS",
    r"HF_HOME=\S+ hf download .*": "needs a network",
    r"lm_eval run .*": "tests/unit/export/test_lm_eval.py",
    r"tensorboard --logdir runs": "tests/unit/test_evaluation_page.py",
}
"""A command as a pattern -> the test that runs it, or what it needs; the page names the latter just before."""

PLACES = {
    r"runs/[\w-]+-\d{8}-\d{6}": "RUN_DIR",
    r"seeds?/seed-\d+": "RUN_DIR",
    r"\bRUN_DIR\b": "runs/done",
    r"\bRUNS_DIR\b": "runs",
    r"\bRUN\.yaml\b": "run.yaml",
}
"""What pages write for something of the reader's -> what is there in this test."""

NEEDS_DATA = (r"(data|run) launch/runs/\w+\.yaml --set data\.root=FOLDER.*", "tests/unit/data/test_data_page.py")
"""Commands of ours that are about data of the reader's, and the test that holds them against what they say then."""

MAY_END_WITH = {"plan": {0, 1}}
"""Exit codes other than 0 that are answers."""


class Command(NamedTuple):
    """A command of a page: its words, without redirections, and the text just before its block."""

    page: str
    words: tuple[str, ...]
    before: str


def fenced_lines(text: str) -> Iterator[tuple[str, str]]:
    """Yield the lines of all fenced blocks of shell commands, continued lines joined, and the text before the block."""
    for block in re.finditer(r"^```(?:bash|sh|shell|console)[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        before = text[: block.start()].strip().rpartition("\n\n")[2]
        for line in block[1].replace("\\\n", " ").split("\n"):
            if line.strip() and line.strip()[0] != "#":
                yield line, before


def commands_of(page: Path) -> list[Command]:
    commands = []
    for line, before in fenced_lines(page.read_text(encoding="utf-8")):
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        tokens = [*lexer, "&&"]
        for place, token in enumerate(tokens):
            if token in ("&&", ";", "|"):
                commands.append(Command(page.name, tuple(words), before))
                words = []
            elif token not in (">", ">>", "<") and tokens[place - 1] not in (">", ">>", "<"):
                words.append(token)
    return [command for command in commands if command.words and command.words[0] != "cd"]


COMMANDS = [command for page in PAGES for command in commands_of(page)]
OURS = [command for command in COMMANDS if Path(command.words[0]).name == "heterotune"]
NOT_OURS = [command for command in COMMANDS if Path(command.words[0]).name != "heterotune"]


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory) -> Path:
    """The folder of a real run, as small as can be."""
    folder = tmp_path_factory.mktemp("docs")
    run_yaml = folder / "run.yaml"
    run_yaml.write_text(
        "{name: tiny, rounds: 1, fleet: [{name: small, model: 'embedded:small', clients: 4},\n"
        "{name: large, model: 'embedded:large', clients: 4}],\n"
        "data: {source: 'embedded:stdlib', max_tokens: 32, max_rows_per_client: 8}, local: {steps: 1, batch_size: 2},\n"
        "compare_with: [fedavg_lora], heterotune: {personal_rank: 1, head_rank: 4},\n"
        "backbone: {ds_config: none}, chunk: {clients: 2}, evaluate: {max_rows: 4}}"
    )
    run = RunFolder.create(load_run(run_yaml), folder, "tiny")
    worker = [sys.executable, "-m", "heterotune.worker", run.config_path, "--run-dir", run.path]
    environ = {"PYTHONPATH": str(ROOT / "engine"), "PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(worker, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.copy(run_yaml, run.path / "run-file.yaml")
    return run.path


@pytest.fixture
def reader(finished_run: Path, tmp_path: Path, monkeypatch, summary, cluster) -> Path:
    """Where a reader stands: a checkout's folders, a run file, a finished run; ranks and Slurm are played."""
    for name in ("launch", "ds_configs", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(finished_run / "run-file.yaml", tmp_path / "run.yaml")
    shutil.copytree(finished_run, tmp_path / "runs" / "done")

    def run_local(folder: RunFolder, num_ranks: int, **options: object) -> int:
        folder.write_summary(summary)
        return 0

    monkeypatch.setattr("heterotune.launching.local.run_local", run_local)
    monkeypatch.setattr("heterotune.doctor.examine", lambda ds_config, *, fix, say: [])
    monkeypatch.setattr("heterotune.local_run.usable_cores", lambda: 8)
    monkeypatch.setattr("heterotune.submit_command.follow", lambda submission, *, on_change, on_poll: 0)
    monkeypatch.setattr("heterotune.submit_command._show_end", lambda submission, code, console: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def placed(word: str) -> str:
    for pattern, instead in PLACES.items():
        word = re.sub(pattern, instead, word)
    return word


@pytest.mark.parametrize("command", OURS, ids=lambda command: f"{command.page}: {' '.join(command.words)}")
def test_a_command_of_ours_runs(command: Command, reader: Path) -> None:
    words = [placed(word) for word in command.words[1:]]
    if re.fullmatch(NEEDS_DATA[0], " ".join(words)):
        assert (ROOT / NEEDS_DATA[1]).is_file()
        return
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code in MAY_END_WITH.get(words[0], {0}), done.output


@pytest.mark.parametrize("command", NOT_OURS, ids=lambda command: f"{command.page}: {' '.join(command.words)}")
def test_another_command_is_run_elsewhere_or_says_what_it_needs(command: Command) -> None:
    text = " ".join(command.words)
    told = next((told for pattern, told in OTHERS.items() if re.fullmatch(pattern, text)), None)
    assert told, f"{command.page}: nothing runs `{text}`. Name the test that does, or what it needs, in OTHERS."
    if told.startswith("needs "):
        assert told.removeprefix("needs ") in command.before, f"{command.page} must say that `{text}` {told}"
    else:
        assert (ROOT / told).is_file()


def test_no_row_is_left_over() -> None:
    texts = [" ".join(command.words) for command in NOT_OURS]
    assert [pattern for pattern in OTHERS if not any(re.fullmatch(pattern, text) for text in texts)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_in_the_text_exist(page: Path) -> None:
    group = typer.main.get_command(app)
    for text in re.findall(r"`heterotune ([a-z]+[^`\n]*)`", page.read_text(encoding="utf-8")):
        name, *words = text.split()
        assert name in group.commands, f"{page.name} names `heterotune {name}`"
        known = {option for parameter in group.commands[name].params for option in parameter.opts} | {"--help"}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, text


def test_an_unknown_command_is_found(tmp_path: Path) -> None:
    """This file's own eyes: continued lines, comments, several commands, redirections."""
    page = tmp_path / "page.md"
    page.write_text("```bash\n# no\nheterotune plan a.yaml \\\n  --json >b && x y   # why\n```\n```yaml\nno: 1\n```\n")
    assert [command.words for command in commands_of(page)] == [("heterotune", "plan", "a.yaml", "--json"), ("x", "y")]


@pytest.mark.parametrize("page", ["command-line.md"])
def test_python_runs(page: str, reader: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL):
        names: dict = {}
        exec(compile(block, page, "exec"), names)
        assert names["result"].digest == "cd" * 32


def test_what_a_page_gets_wrong_is_an_error(reader: Path) -> None:
    assert CliRunner().invoke(app, ["ledger", "runs/done", "--bye", "type"]).exit_code == 2
    with pytest.raises(ConfigError):
        load_run("run.yaml", ["roundz=1"])
