"""The final report shows every number of the summary that a newcomer asks for."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from heterotune.report.terminal import PLAIN_WIDTH, final_report, report_console


def strategy(name: str, loss_after: float | None) -> dict:
    return {
        "strategy": name,
        "rounds": 8,
        "seconds": 185.0,
        "seconds_per_round": 9.5,
        "startup_seconds": 12.0,
        "model_types": {
            "large-3q": {
                "loss_before": 3.5,
                "loss_after": loss_after,
                "perplexity_before": 33.1,
                "perplexity_after": 20.0,
                "up_bytes_per_client_round": 13_722,
                "down_bytes_per_client_round": 27_444,
                "full_model_bytes": 5_000_000,
                "num_clients": 8,
            }
        },
        "peak_bytes": [
            {"mpi_rank": 0, "kind": "host_resident", "peak_bytes": 500 * 2**20},
            {"mpi_rank": 1, "kind": "host_resident", "peak_bytes": 400 * 2**20},
        ],
        "global_adapter_sha256": "ab" * 32,
    }


def render(summary: dict) -> str:
    stream = io.StringIO()
    Console(file=stream, width=PLAIN_WIDTH).print(final_report(summary, Path("runs/demo-20260101-000000")))
    return stream.getvalue()


def test_all_numbers_are_there() -> None:
    text = render(strategy("heterotune", 3.0) | {"compare": {"fedavg_lora": strategy("fedavg_lora", 3.125)}})
    for expected in ("3.500 -> 3.000", "3.500 -> 3.125", "33.10 -> 20.00", "13.4 KiB", "0.27 %", "26.8 KiB", "0.55 %"):
        assert expected in text
    for expected in (
        "4.77 MiB",
        "500 MiB",
        "400 MiB",
        "8 rounds in 3 min 05 s",
        "ab" * 32,
        "runs/demo-20260101-000000",
    ):
        assert expected in text


def test_a_loss_that_was_not_finite_is_a_dash() -> None:
    assert "3.500 -> -" in render(strategy("heterotune", None))


def test_without_a_terminal_the_report_is_wide_enough(capsys) -> None:
    assert report_console().width == PLAIN_WIDTH


def test_other_kinds_of_memory_and_leaks_are_told() -> None:
    leak = {"mpi_rank": 3, "phase": "train", "kind": "host_resident", "bytes_per_round": 2**23, "error": 2**20}
    pss = {"mpi_rank": 0, "kind": "node_pss", "peak_bytes": 700 * 2**20}
    summary = strategy("heterotune", 3.0)
    text = render(summary | {"leaks": [leak], "peak_bytes": [*summary["peak_bytes"], pss]})
    assert "heterotune: memory leak? The host_resident peak of MPI rank 3 in phase train grows by 8.0 MiB" in text
    assert "its node, shared pages once" in text and "700 MiB" in text


def test_what_was_measured_beside_the_loss_has_a_table_of_its_own() -> None:
    assert "right answers" not in render(strategy("heterotune", 3.0))
    measured, plain = strategy("heterotune", 3.0), strategy("fedavg_lora", 3.1)
    measured["model_types"]["large-3q"] |= {
        "accuracy_before": 0.25,
        "accuracy_after": 0.625,
        "personal_loss_before": 3.5,
        "personal_loss_after": None,  # it was no number
    }
    text = render(measured | {"compare": {"fedavg_lora": plain}})
    assert "right answers" in text and "25.0 -> 62.5" in text and "own loss" in text
    measured["model_types"]["large-3q"]["personal_loss_after"] = 2.5
    assert "3.500 -> 2.500" in render(measured)
