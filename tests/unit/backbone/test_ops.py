"""Build locks: alive, stale, shared; ops that a run needs; and DeepSpeed on gloo without its shared-memory op."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from heterotune.backbone import ops
from heterotune.config.deepspeed_json import read_ds_config
from heterotune.errors import LaunchError

SOURCE_ROOT = Path(__file__).parents[3] / "engine"


def make_lock(folder: Path, op: str) -> Path:
    (folder / op).mkdir()
    (folder / op / "lock").touch()
    return folder / op / "lock"


def test_only_parameters_on_nvme_need_ops() -> None:
    assert ops.required_ops(read_ds_config("zero3_cpu")) == ()
    assert ops.required_ops(read_ds_config("zero3_gpu")) == ()
    assert ops.required_ops(read_ds_config("zero3_nvme")) == ("pin_memory", "async_io")
    assert ops.required_ops({}) == ()


def test_the_extensions_folder_is_torchs_own(monkeypatch, tmp_path: Path) -> None:
    from torch.utils.cpp_extension import _get_build_directory

    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Path(_get_build_directory("async_io", False)) == ops.extensions_folder() / "async_io"
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "mine"))
    assert Path(_get_build_directory("async_io", False)) == ops.extensions_folder() / "async_io"


def test_torchs_own_lock_is_alive_while_it_is_held(tmp_path: Path) -> None:
    from torch.utils.file_baton import FileBaton

    (tmp_path / "async_io").mkdir()
    baton = FileBaton(str(tmp_path / "async_io" / "lock"))
    assert baton.try_acquire()
    (lock,) = ops.find_locks(tmp_path)
    assert lock.holder_pids == (os.getpid(),)
    assert not lock.stale
    assert ops.clear_stale_locks(tmp_path) == ()
    baton.release()
    assert ops.find_locks(tmp_path) == ()


def test_the_lock_of_a_killed_builder_is_stale_and_can_be_cleared(tmp_path: Path) -> None:
    (tmp_path / "async_io").mkdir()
    program = (
        "import os, sys; from torch.utils.file_baton import FileBaton\n"
        "assert FileBaton(sys.argv[1]).try_acquire(); os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "async_io" / "lock"
    assert subprocess.run([sys.executable, "-c", program, str(path)], timeout=120).returncode == -9
    (lock,) = ops.find_locks(tmp_path)
    assert lock.stale and lock.op == "async_io"
    assert "heterotune doctor --fix" in ops.stale_lock_message(lock)
    assert [cleared.path for cleared in ops.clear_stale_locks(tmp_path)] == [path]
    assert not path.exists()


def test_on_a_shared_filesystem_only_a_long_silence_counts(tmp_path: Path, monkeypatch) -> None:
    path = make_lock(tmp_path, "async_io")
    monkeypatch.setattr(ops, "_is_shared", lambda path: True)
    assert not ops.find_locks(tmp_path)[0].stale
    os.utime(path, (1.0, 1.0))
    assert ops.find_locks(tmp_path)[0].stale


def test_a_build_does_not_wait_for_a_stale_lock(tmp_path: Path) -> None:
    make_lock(tmp_path, "async_io")
    with pytest.raises(LaunchError, match="lock of a build of async_io that died .*heterotune doctor --fix"):
        ops.build_op("async_io", tmp_path, print)


def test_what_is_built_is_not_built_again(tmp_path: Path) -> None:
    (tmp_path / "async_io").mkdir()
    (tmp_path / "async_io" / "async_io.so").touch()
    messages: list[str] = []
    assert ops.build_op("async_io", tmp_path, messages.append) == 0.0
    assert messages == []


def test_a_failed_build_says_why(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(SOURCE_ROOT))
    monkeypatch.setattr(ops, "_MESSAGE_SECONDS", 0.05)
    messages: list[str] = []
    with pytest.raises(LaunchError, match="(?s)DeepSpeed's unheard_of did not build.*KeyError: 'unheard_of'"):
        ops.build_op("unheard_of", tmp_path, messages.append)
    assert "Building DeepSpeed's unheard_of" in messages[0]
    assert any("still building" in message for message in messages)


def test_zero3_on_gloo_works_without_the_shared_memory_op_and_compiles_nothing(tmp_path: Path) -> None:
    program = """
import os, torch, deepspeed
from heterotune.backbone.ops import skip_unused_comm_op
skip_unused_comm_op()
deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False, verbose=False,
                           init_method="file://" + os.environ["MEETING"], rank=0, world_size=1)
config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {
    "stage": 3, "offload_param": {"device": "cpu", "pin_memory": True}, "stage3_param_persistence_threshold": 0}}
model = torch.nn.Linear(8, 8).requires_grad_(False)
engine, *_ = deepspeed.initialize(model=model, config=config)
x = torch.ones(2, 8, requires_grad=True)
engine.module(x).sum().backward()
assert x.grad.abs().sum() > 0
print("passed")
"""
    environ = dict(
        os.environ,
        PYTHONPATH=str(SOURCE_ROOT),
        DS_ACCELERATOR="cpu",
        TORCH_EXTENSIONS_DIR=str(tmp_path / "extensions"),
        MEETING=str(tmp_path / "meeting"),
        RANK="0",
        WORLD_SIZE="1",
        LOCAL_RANK="0",
        OMP_NUM_THREADS="1",
    )
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=120)
    assert "passed" in done.stdout, done.stderr
    assert not (tmp_path / "extensions").exists()
