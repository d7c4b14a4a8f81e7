"""`heterotune ledger`: what clients would send, or what the ranks of the simulator moved, summed any way."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from heterotune.collective.ledger_sums import FIELDS, LedgerSum, LedgerSums
from heterotune.config.load import load_run
from heterotune.config.nearest import suggestion
from heterotune.errors import ConfigError, LaunchError, RecordError
from heterotune.launching.local import open_to_resume
from heterotune.report.quantities import format_bytes, format_seconds, format_share
from heterotune.report.records import read_ledger, read_traffic
from heterotune.run_folder import LEDGER_FILE, SUMMARY_FILE, TRAFFIC_FILE, RunFolder

TRAFFIC_FIELDS = ("round", "mpi_rank", "what")
_TRAFFIC_SUMS = ("calls", "sent_bytes", "received_bytes", "seconds")
_TITLES = {
    LEDGER_FILE: "bytes that clients would send (up) and get (down), measured",
    TRAFFIC_FILE: "bytes that the simulator's ranks moved; no part of the federation",
}

Row = dict[str, Any]
Form = Literal["table", "json", "csv"]


@dataclass
class Sums:
    """What a run's records add up to.

    Attributes:
        file: Which record.
        by: The fields that were summed by.
        rows: One a strategy and key, in order.
        totals: One a strategy.
        missing: What is not there, in words.
    """

    file: str
    by: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)
    totals: list[Row] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def show_ledger(run_dir: Path, by: str | None, *, traffic: bool, form: Form, console: Console) -> None:
    """Print a run's ledger or traffic.

    Args:
        run_dir: The run folder; the run may be under way or have crashed.
        by: Fields to sum by, with commas; None = by type and direction, or for the traffic by what moved it.
        traffic: Show the traffic instead of the ledger.
        form: "table" for people; "json" and "csv" to standard output.
        console: For the table.

    Raises:
        ConfigError: If `by` names what there is not.
        LaunchError: If `run_dir` is no run folder.
        RecordError: If a line is damaged.
    """
    sums = sum_records(run_dir, by, traffic=traffic)
    if form == "json":
        print(json.dumps({"file": sums.file, "by": sums.by, "rows": sums.rows, "missing": sums.missing}, indent=1))
    elif form == "csv":
        _write_csv(sums)
    else:
        console.print(_table(sums))
        for text in sums.missing:
            console.print(text, markup=False, highlight=False, soft_wrap=True)


def sum_records(run_dir: Path, by: str | None, *, traffic: bool) -> Sums:
    """Sum the ledger or the traffic of a run's strategies; as `show_ledger`."""
    fields = TRAFFIC_FIELDS if traffic else FIELDS
    sums = Sums(TRAFFIC_FILE if traffic else LEDGER_FILE, _parse_by(by, fields, traffic=traffic))
    folder = open_to_resume(run_dir)
    config = load_run(folder.config_path, begun=True)
    parts = {config.strategy: folder.path}
    parts |= {name: folder.path / "compare" / name for name in config.compare_with}
    for strategy, path in parts.items():

        def say(text: str, strategy: str = strategy) -> None:
            sums.missing.append(f"{strategy}: {text}")

        if not (path / sums.file).is_file():
            say(f"there is no {sums.file}: no round of it has ended.")
            continue
        newest = (_sum_traffic if traffic else _sum_ledger)(sums, strategy, path, say)
        if newest == 0 and not traffic:
            say(f"{sums.file} is empty: this strategy sends nothing, or no round of it has ended.")
        elif newest < config.rounds:
            say(f"{sums.file} ends with round {newest} of {config.rounds}: the run has not come further.")
    return sums


def _parse_by(by: str | None, fields: Sequence[str], *, traffic: bool) -> tuple[str, ...]:
    if by is None:
        return ("what",) if traffic else ("type", "direction")
    names = tuple(name.strip() for name in by.split(",") if name.strip())
    problems = [
        f"--by {name}: there is no such field. {suggestion(name, fields)}" for name in names if name not in fields
    ]
    problems += [f"--by {name} is named twice. Name it once." for name in sorted(set(names)) if names.count(name) > 1]
    if problems:
        raise ConfigError(problems)
    return names


def _sum_ledger(sums: Sums, strategy: str, path: Path, say: Callable[[str], None]) -> int:
    """Add a strategy's rows; returns the newest round."""
    full_model_bytes, newest = _full_model_bytes(path), 0
    if full_model_bytes is None:
        say(f"there is no {SUMMARY_FILE}, so nothing is compared with the full model.")
    by_key, total = LedgerSums(sums.by, full_model_bytes), LedgerSums((), full_model_bytes)  # type: ignore[arg-type]
    for entry in read_ledger(path / LEDGER_FILE, say):
        by_key.add(entry)
        total.add(entry)
        newest = entry.round_number
    sums.rows += [_ledger_row(strategy, dict(zip(sums.by, key, strict=True)), each) for key, each in by_key.rows()]
    sums.totals.append(_ledger_row(strategy, {}, total.of()))
    return newest


def _ledger_row(strategy: str, key: Row, each: LedgerSum) -> Row:
    full = each.full_model_bytes
    return {
        "strategy": strategy,
        **key,
        "messages": each.num_messages,
        "client_rounds": each.num_turns,
        "bytes": each.num_bytes,
        "bytes_per_client_round": each.bytes_per_turn,
        "full_model_bytes": full or None,
        "share_of_full_model": each.num_bytes / full if full else None,
    }


def _full_model_bytes(path: Path) -> dict[str, int] | None:
    """Return model type -> bytes of its full model by a strategy's summary; None if there is none yet."""
    try:
        summary = RunFolder.open(path).find_summary()
        return (
            None
            if summary is None
            else {name: int(each["full_model_bytes"]) for name, each in summary["model_types"].items()}
        )
    except (LaunchError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{path / SUMMARY_FILE} is damaged ({error!r}).") from error


def _sum_traffic(sums: Sums, strategy: str, path: Path, say: Callable[[str], None]) -> int:
    """Add a strategy's rows; returns the newest round."""
    newest, found = 0, {}
    total = dict.fromkeys(_TRAFFIC_SUMS, 0)
    for row in read_traffic(path / TRAFFIC_FILE, say):
        fields = {"round": row.round_number, "mpi_rank": row.mpi_rank, "what": row.what}
        key = tuple(fields[name] for name in sums.by)
        mine = found.setdefault(key, dict.fromkeys(_TRAFFIC_SUMS, 0))
        moved = zip(_TRAFFIC_SUMS, (row.num_calls, row.sent_bytes, row.received_bytes, row.seconds), strict=True)
        for name, number in moved:
            mine[name] += number
            total[name] += number
        newest = row.round_number
    for key, mine in sorted(found.items()):
        sums.rows.append({"strategy": strategy, **dict(zip(sums.by, key, strict=True)), **mine})
    sums.totals.append({"strategy": strategy, **total})
    return newest


def _write_csv(sums: Sums) -> None:
    if sums.rows:
        table = csv.DictWriter(sys.stdout, fieldnames=list(sums.rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(sums.rows)
    for text in sums.missing:
        print(text, file=sys.stderr)


def _table(sums: Sums) -> Table:
    table = Table(title=_TITLES[sums.file])
    rows = [*sums.rows, *(_labelled(total, sums.by) for total in sums.totals if sums.by)] or sums.totals
    for row in rows[:1]:
        for name in row:
            if name != "full_model_bytes":
                is_word = name in ("strategy", "type", "direction", "group", "what")
                table.add_column(name.replace("_", " "), justify="left" if is_word else "right")
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _labelled(total: Row, by: Sequence[str]) -> Row:
    """Return a total as a row of the table."""
    places = {name: "all" if place == 0 else "" for place, name in enumerate(by)}
    return {"strategy": total["strategy"], **places, **total}


def _cells(row: Row) -> Iterator[str]:
    for name, value in row.items():
        if name == "full_model_bytes":
            continue
        if name == "share_of_full_model":
            yield format_share(row["bytes"], row["full_model_bytes"] or 0)
        elif name.endswith("bytes") or name == "bytes_per_client_round":
            yield format_bytes(value)
        elif name == "seconds":
            yield format_seconds(value)
        else:
            yield str(value)
