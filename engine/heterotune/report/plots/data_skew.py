"""How differently clients' data are: rows, owners or labels of each, and how often each took part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from heterotune.report.data_record import ClientData, kinds_by_rows
from heterotune.report.plots.colors import series_color
from heterotune.report.plots.heat_map import HeatMap, draw_heat_map
from heterotune.report.plots.plot import Plot
from heterotune.report.run_record import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_CLIENTS, _MOST_KINDS, _MOST_BARS = 40, 16, 200
_OTHERS = "others"


def skew_plots(run: RunRecord) -> Iterator[Plot]:
    """Yield who holds what, from data.json, and who took part, from the ledger."""
    if run.clients:
        yield _rows_plot(run.clients, sum(count or 0 for count in run.fleet.values()))
        if any(client.kinds for client in run.clients):
            yield _kinds_plot(run.clients)
    turns = run.strategies[0].ledger.turns if run.strategies else {}
    if turns:
        yield _turns_plot(run.fleet, turns)


def _rows_plot(clients: Sequence[ClientData], num_clients: int) -> Plot:
    bars = {str(client.client_id): (client.model_type, client.train_rows) for client in clients}
    counts = sorted(client.train_rows for client in clients)
    of_more = f" of {num_clients}, at equal distances," if num_clients > len(clients) else ""
    return Plot(
        "rows-per-client",
        "Training rows of each client",
        "As data.json says, before the first round.",
        f"{len(clients)} clients{of_more} hold {counts[0]} to {counts[-1]} rows, "
        f"in the median {counts[len(counts) // 2]}.",
        partial(_draw_bars, bars=list(bars.values()), x_label="client", y_label="training rows"),
        2.9,
        ("client", "model_type", "train_rows", "heldout_rows"),
        [(client.client_id, client.model_type, client.train_rows, client.heldout_rows) for client in clients],
        _cut_note(len(clients)),
    )


def _turns_plot(fleet: Mapping[str, int | None], turns: Mapping[str, Mapping[int, int]]) -> Plot:
    rows = [(client, name, count) for name, mine in turns.items() for client, count in mine.items()]
    rows.sort(key=lambda row: (list(fleet).index(row[1]) if row[1] in fleet else len(fleet), row[0]))
    told = "; ".join(
        f"{name}: {len(mine)} of {fleet.get(name) or '?'} clients, {min(mine.values())} to {max(mine.values())} rounds"
        for name, mine in list(turns.items())[:12]
    )
    return Plot(
        "participation",
        "Rounds in which each client took part",
        "From the ledger: a client takes part in a round if it has messages in it.",
        f"{told}.",
        partial(_draw_bars, bars=[row[1:] for row in rows], x_label="client, by model type", y_label="rounds"),
        2.9,
        ("client", "model_type", "rounds"),
        rows,
        _cut_note(len(rows)),
    )


def _cut_note(num_clients: int) -> tuple[str, ...]:
    if num_clients <= _MOST_BARS:
        return ()
    return (f"There are {num_clients} clients: a bar is the mean of neighbours. The CSV has each.",)


def _draw_bars(figure: Figure, bars: Sequence[tuple[str, int]], x_label: str, y_label: str) -> None:
    """Draw a bar a client; of many clients the mean of neighbours of one model type."""
    per_bar = -(-len(bars) // _MOST_BARS)
    axes, start = figure.subplots(), 0
    for place, name in enumerate(dict.fromkeys(name for name, _ in bars)):
        mine = [count for other, count in bars if other == name]
        groups = [mine[first : first + per_bar] for first in range(0, len(mine), per_bar)]
        heights = [sum(group) / len(group) for group in groups]
        where = [start + per_bar * number + per_bar / 2 for number in range(len(groups))]
        axes.bar(where, heights, width=0.85 * per_bar, color=series_color(place), label=name)
        start += len(mine)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.margins(x=0.01)
    axes.grid(visible=False, axis="x")
    figure.legend(loc="outside upper center", ncols=4)


def _kinds_plot(clients: Sequence[ClientData]) -> Plot:
    what = "label" if any(client.labels for client in clients) else "owner"
    kinds = kinds_by_rows(list(clients))
    shown = kinds if len(kinds) <= _MOST_KINDS else [*kinds[: _MOST_KINDS - 1], _OTHERS]
    rows = _shares(clients, shown)
    notes = (
        [f"Of {len(kinds)} {what}s, those with most rows have a column of their own."]
        if len(kinds) > len(shown)
        else []
    )
    if len(clients) > _MOST_CLIENTS:
        notes.append(f"There are {len(clients)} clients: a line is a model type. The CSV has every client.")
    values = [list(shares) for shares in rows.values()]
    heat_map = HeatMap(values, list(rows), [_short(name) for name in shown], 1.0, lambda value: f"{100 * value:.0f}")
    return Plot(
        "data-skew",
        f"Whose rows have which {what}",
        f"Share of rows, in percent, by {what}. A line with one strong cell holds one {what} only.",
        f"{len(clients)} clients, {len(kinds)} {what}s; the most frequent: {', '.join(kinds[:5])}.",
        partial(_draw_kinds, heat_map=heat_map),
        1.6 + 0.2 * len(rows),
        ("client", "model_type", what, "rows"),
        [(each.client_id, each.model_type, name, count) for each in clients for name, count in each.kinds.items()],
        notes,
    )


def _shares(clients: Sequence[ClientData], shown: Sequence[str]) -> dict[str, list[float | None]]:
    """Return line -> its share of each kind; a line is a client, or a model type if there are many clients."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for client in clients:
        line = f"{client.client_id} {client.model_type}" if len(clients) <= _MOST_CLIENTS else client.model_type
        for name, count in client.kinds.items():
            counts[line][name if name in shown else _OTHERS] += count
    totals = {line: sum(mine.values()) for line, mine in counts.items()}
    return {
        line: [mine[name] / totals[line] if mine[name] else None for name in shown] for line, mine in counts.items()
    }


def _short(name: str) -> str:
    return name if len(name) <= 14 else f"{name[:12]}…"


def _draw_kinds(figure: Figure, heat_map: HeatMap) -> None:
    draw_heat_map(figure.subplots(), heat_map, is_signed=False)
