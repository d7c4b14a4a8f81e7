"""Lines where there is no terminal, a bar where there is one."""

from __future__ import annotations

import io

from rich.console import Console

from heterotune.report.live_display import LiveDisplay

ROUND = {"state": "running", "strategy": "heterotune", "rounds": 8}


def shown(statuses: list[dict], *, terminal: bool) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120)
    with LiveDisplay(console) as display:
        for status in statuses:
            display.show(status)
    return stream.getvalue()


def test_without_a_terminal_a_round_is_one_line() -> None:
    statuses = [
        {"state": "starting", "rounds": 8},
        {"state": "starting", "rounds": 8},
        ROUND | {"round": 0, "phase": "load"},
        ROUND | {"round": 1, "phase": "train", "loss": {"small": 3.5}},
        ROUND | {"round": 1, "phase": "gather", "loss": {"small": 3.5}},
        ROUND | {"round": 1, "phase": "evaluate", "loss": {"small": 3.25}},
        ROUND | {"round": 2, "phase": "evaluate", "loss": {"small": None}},
    ]
    assert shown(statuses, terminal=False).splitlines() == [
        "starting ...",
        "heterotune ...",
        "heterotune  round 1/8  loss small 3.250",
        "heterotune  round 2/8  loss small -",
    ]


def test_on_a_terminal_each_strategy_has_a_bar() -> None:
    statuses = [
        ROUND | {"round": 3, "phase": "train", "loss": {"small": 3.5}},
        ROUND | {"state": "comparing", "strategy": "fedavg_lora", "round": 8, "phase": "evaluate"},
    ]
    text = shown(statuses, terminal=True)
    assert "heterotune" in text and "fedavg_lora" in text
    assert "2/8" in text and "8/8" in text
    assert "train  loss small 3.500" in text
