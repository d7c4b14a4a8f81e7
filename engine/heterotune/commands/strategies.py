"""`heterotune strategies`: the federated methods that there are."""

from __future__ import annotations

from heterotune.commands.arguments import AsJson


def strategies(as_json: AsJson = False) -> None:
    """List the federated methods that a run file may name: what each is, whose it is, how near we are to it."""
    from heterotune.report.terminal import report_console
    from heterotune.strategies_command import show_strategies

    show_strategies(report_console(), as_json=as_json)
