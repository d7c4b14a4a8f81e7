"""`heterotune init`: what it writes, and what it refuses. That it runs is tested with the wheel."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from heterotune.config.deepspeed_json import read_ds_config
from heterotune.config.load import load_run

FILES = {"run.yaml", "run.schema.json", "deepspeed.json", "job.sbatch"}


@pytest.fixture
def empty(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_files_are_there_and_can_be_read(empty: Path, heterotune) -> None:
    done = heterotune("init")
    assert done.exit_code == 0, done.output
    assert {path.name for path in empty.iterdir() if path.is_file()} == FILES
    config = load_run("run.yaml")
    assert [(entry.model, entry.clients) for entry in config.fleet] == [("embedded:small", 4), ("embedded:large", 4)]
    assert config.backbone.ds_config == "./deepspeed.json"
    assert read_ds_config("./deepspeed.json") == read_ds_config("zero3_cpu")
    first = Path("run.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=run.schema.json"
    assert json.loads(Path("run.schema.json").read_text())["properties"]["rounds"]["minimum"] == 1


def test_the_batch_script_copies_the_run_file_once(empty: Path, heterotune) -> None:
    heterotune("init", "there")
    script = (empty / "there" / "job.sbatch").read_text()
    run_dir = empty / "there" / "runs" / "job"
    assert f"#SBATCH --output={run_dir}/logs/slurm-%j.out" in script and (run_dir / "logs").is_dir()
    assert f"goes on from its newest checkpoint with: sbatch {empty}/there/job.sbatch" in script
    copying = "\n".join(line for line in script.splitlines() if line.startswith(("RUN_DIR=", "cd ", "[[ -e")))
    bash = shutil.which("bash")
    assert bash is not None
    for text in ("name: mine", "name: edited later"):
        if text != "name: mine":
            (empty / "there" / "run.yaml").write_text(text)
        subprocess.run([bash, "-euc", copying], check=True, timeout=60)
    assert "name: first-run" in (run_dir / "config.yaml").read_text()


def test_models_and_clients_are_shared_out(empty: Path, heterotune) -> None:
    (empty / "llama").mkdir()
    names = ["embedded:large,embedded:large-2q", "random:hidden_size=64,num_attention_heads=2", "llama", "org/llama"]
    options = [word for name in names for word in ("--models", name)]
    assert heterotune("init", "d", *options, "--clients", 7).exit_code == 0
    fleet = load_run_in(empty / "d").fleet
    assert [entry.clients for entry in fleet] == [2, 2, 1, 1, 1]
    assert [entry.name for entry in fleet] == ["large", "large-2q", "random", "llama", "llama.2"]
    assert [entry.siblings_of for entry in fleet] == [None, "large", None, None, None]
    assert fleet[3].model == str(empty / "llama") and fleet[4].model == "org/llama"


def load_run_in(folder: Path):
    return load_run(folder / "run.yaml", [f"backbone.ds_config={folder}/deepspeed.json"])


def test_nothing_is_overwritten_unless_asked(empty: Path, heterotune) -> None:
    Path("run.yaml").write_text("mine")
    done = heterotune("init")
    assert done.exit_code == 2
    assert "run.yaml is there already. Choose another folder, or add --force." in done.stderr
    assert Path("run.yaml").read_text() == "mine" and not Path("job.sbatch").exists()
    forced = heterotune("init", "--force", "--quiet")
    assert (forced.exit_code, forced.output) == (0, "")
    assert load_run("run.yaml").name == "first-run"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--clients", 1), "--clients = 1 is less than the 2 models. Give every model a client at least."),
        (("--models", ","), "--models names no model. Name at least one, e.g. --models embedded:small."),
        (("--models", "random:what=1"), "fleet.0.model = 'random:what=1'"),
        (("a%b",), "a%b"),
        (("file/there",), "nothing can be written there (Not a directory). Choose another folder."),
    ],
)
def test_what_cannot_be_written(empty: Path, arguments, message: str, heterotune) -> None:
    Path("file").touch()
    done = heterotune("init", *arguments)
    assert done.exit_code == 2 and message in done.stderr, done.output
    assert not Path("run.yaml").exists()
