"""What a rank finds in its environment before it imports torch or DeepSpeed."""

from __future__ import annotations

from heterotune.launching.worker_environment import num_threads, usable_cores, worker_variables


def test_on_cpu_deepspeed_is_told_so_and_threads_are_fixed() -> None:
    variables = worker_variables({}, threads_per_rank="auto", has_gpu=False)
    assert variables["DS_ACCELERATOR"] == "cpu"
    assert variables["OMP_NUM_THREADS"] == variables["MKL_NUM_THREADS"] == "1"
    assert variables["TOKENIZERS_PARALLELISM"] == "false"
    assert "HF_HUB_OFFLINE" not in variables


def test_with_a_gpu_deepspeed_picks_it() -> None:
    assert "DS_ACCELERATOR" not in worker_variables({}, threads_per_rank="auto", has_gpu=True)


def test_threads_come_from_the_run_not_from_the_shell() -> None:
    variables = worker_variables({"OMP_NUM_THREADS": "64"}, threads_per_rank=3, has_gpu=False)
    assert variables["OMP_NUM_THREADS"] == "3"


def test_threads_are_one_unless_the_run_says_more() -> None:
    assert (num_threads("auto"), num_threads(3)) == (1, 3)


def test_what_the_user_said_about_logs_and_the_accelerator_is_kept() -> None:
    said = {"TRANSFORMERS_VERBOSITY": "debug", "DS_ACCELERATOR": "xpu"}
    assert not worker_variables(said, threads_per_rank="auto", has_gpu=False).keys() & said.keys()


def test_there_is_a_core() -> None:
    assert usable_cores() >= 1
