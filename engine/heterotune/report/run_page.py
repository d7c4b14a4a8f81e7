"""The page of one run: what `heterotune report` writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from heterotune.report.costs import JOULES, SECONDS, has_clock, spent
from heterotune.report.metric_record import CurveKey
from heterotune.report.page import Page, Section, Table
from heterotune.report.plots.conflicts import conflict_plots
from heterotune.report.plots.cost_curves import cost_plots
from heterotune.report.plots.data_skew import skew_plots
from heterotune.report.plots.learning import learning_plots
from heterotune.report.plots.memory import memory_plots
from heterotune.report.plots.message_bytes import bytes_plots
from heterotune.report.plots.timing import timing_plots
from heterotune.report.quantities import format_bytes, format_number, format_seconds, format_share
from heterotune.report.run_record import RunRecord, StrategyRecord
from heterotune.report.targets import Target, default_targets, target_tables
from heterotune.report.thinned_series import ThinnedSeries

_MOST_METRIC_ROWS = 150
_MOST_BESIDE = 3
_LONGEST_FAILURE = 4000


def run_page(run: RunRecord, targets: Sequence[Target] = ()) -> Page:
    """Return the page of a run that was read.

    Args:
        run: The run.
        targets: What is to be reached; none = chosen, where the run has a clock.
    """
    strategies, types = run.strategies, list(run.fleet)
    sections = [
        _results(run),
        Section("learning", "Learning curves", plots=list(learning_plots(strategies, types)), empty=_NOTHING),
        Section("bytes", "Bytes and quality", _BYTES, plots=list(bytes_plots(strategies, types)), empty=_NOTHING),
        *_spent_section(run, targets),
        Section("memory", "Memory", _MEMORY, plots=list(memory_plots(strategies)), empty=_NOTHING),
        Section(
            *("conflicts", "Gradient conflicts", _CONFLICTS),
            plots=list(conflict_plots(strategies, types)),
            empty="No model types share tensors here, or the strategy does not align their updates.",
        ),
        Section("data", "Client data", _digest(run), plots=list(skew_plots(run)), empty=_NOTHING),
        Section("time", "Time", plots=list(timing_plots(run)), tables=list(_startup(run)), empty=_NOTHING),
        _warnings(run),
        Section("metrics", "Every metric", tables=[_metrics_table(each) for each in strategies], empty=_NOTHING),
        Section(
            "config", "Configuration", "As config.yaml in the run folder.", listing=_without_facts(run.config_text)
        ),
        Section("environment", "Environment", tables=list(_environment(run))),
    ]
    compared = f", compared with {', '.join(each.name for each in strategies[1:])}" if strategies[1:] else ""
    subtitle = f"{strategies[0].name}{compared} · {len(types)} model types · seed {run.config.get('seed', '?')}"
    return Page(f"Run {run.name}", subtitle, run.state, _alert(run), sections)


_NOTHING = "The run folder has nothing of this yet."
_BYTES = "Measured lengths of encoded messages from ledger.jsonl. What the simulator's own ranks move is not in it."
_SPENT = (
    "What the clients' own devices would have taken: simulated seconds and energy, which do not depend on the machine "
    "that simulates them. A target is reached in the first round that was evaluated and is good enough."
)
_MEMORY = "Peaks that the kernel measured in each phase, at their highest over all rounds."
_CONFLICTS = (
    "Where model types share a tensor, their mean updates may point apart. CMGA projects them off one another's "
    "conflicts before they are added. Cosines are 1 for the same direction, 0 for unrelated, below 0 for a conflict."
)


def _results(run: RunRecord) -> Section:
    section = Section("results", "Results", cards=list(_cards(run)))
    table = _result_table(run)
    section.tables += [table] if table is not None else []
    return section


def _cards(run: RunRecord) -> Iterator[tuple[str, str, str]]:
    main, others = run.strategies[0], run.strategies[1:]
    seconds = main.metrics.one("seconds/round")
    yield "Rounds", f"{main.metrics.newest_round} of {run.rounds or '?'}", run.state
    if seconds is not None and seconds.mean is not None:
        total, each = seconds.mean * seconds.num_values, main.seconds_per_round or seconds.mean
        yield "Time in rounds", format_seconds(total), f"{format_seconds(each)} a round"
    clients = [count for count in run.fleet.values() if count is not None]
    yield "Clients", str(sum(clients)), f"{len(run.fleet)} model types"
    if (ends := _mean_ends(main)) is not None:
        beside = [f"{each.name} {found[1]:.3f}" for each in others if (found := _mean_ends(each)) is not None]
        yield "Held-out loss", f"{ends[0]:.3f} → {ends[1]:.3f}", _beside("nats/token, mean of model types", beside)
    if (mean := _mean_up(run, main)) is not None:
        share = f"{format_share(*mean)} of the full model" if mean[1] else "mean of model types"
        beside = [f"{each.name} {format_bytes(found[0])}" for each in others if (found := _mean_up(run, each))]
        yield "Up per client and round", format_bytes(mean[0]), _beside(share, beside)
    if (peak := main.peak_bytes) is not None:
        yield "Peak of an MPI rank", format_bytes(peak), "resident memory, highest phase"
    if isinstance(digest := main.summary.get("global_adapter_sha256"), str):
        yield "Global adapters", digest[:12], "sha256; all of it is under Environment"


def _spent_section(run: RunRecord, targets: Sequence[Target]) -> Iterator[Section]:
    """Yield what the simulated devices took; nothing where no clock ran and no target was asked for."""
    runs = {each.name: [each] for each in run.strategies}
    if not has_clock(run.strategies) and not targets:
        return
    section = Section("spent", "Virtual time and energy", _SPENT, empty=_NOTHING)
    for cost in (SECONDS, JOULES):
        ends = {each.name: cost.written(curve[-1][1]) for each in run.strategies if (curve := spent(each, cost))}
        beside = [f"{name} {amount}" for name, amount in ends.items() if name != run.strategies[0].name]
        card = (cost.title.capitalize(), ends.get(run.strategies[0].name, "-"), "; ".join(beside[:_MOST_BESIDE]))
        section.cards += [card] if ends else []
    section.tables += target_tables(runs, targets or default_targets(runs), list(run.fleet))
    section.plots += list(cost_plots(runs, list(run.fleet))) if has_clock(run.strategies) else []
    yield section


def _beside(note: str, others: Sequence[str]) -> str:
    return f"{note}; {', '.join(others[:_MOST_BESIDE])}" if others else note


def _mean_ends(strategy: StrategyRecord) -> tuple[float, float] | None:
    """Return the held-out loss before and after, mean over model types."""
    curves = [curve for curve in strategy.metrics.by("loss/eval", "model_type").values() if curve.first and curve.last]
    if not curves:
        return None
    before, after = ([getattr(curve, end)[1] for curve in curves] for end in ("first", "last"))
    return sum(before) / len(curves), sum(after) / len(curves)


def _mean_up(run: RunRecord, strategy: StrategyRecord) -> tuple[float, float] | None:
    """Return bytes up of a client in a round and of the full model (0 = unknown), means over model types."""
    ups = {name: up for name in run.fleet if (up := strategy.ledger.bytes_per_turn(name, "up")) is not None}
    if not ups:
        return None
    fulls = [strategy.full_model_bytes(name) for name in ups]
    full = 0.0 if None in fulls else sum(filter(None, fulls)) / len(fulls)
    return sum(ups.values()) / len(ups), full


def _result_table(run: RunRecord) -> Table | None:
    has_accuracy = any(each.metrics.by("accuracy/eval", "model_type") for each in run.strategies)
    rows = [
        [name, each.name, *_result_cells(run, each, name, has_accuracy=has_accuracy)]
        for name in run.fleet
        for each in run.strategies
        if each.loss_curves().get(name)
    ]
    heads = ["model type", "strategy", "clients", "loss before", "after", "change"]
    heads += ["accuracy"] if has_accuracy else []
    heads += ["up, of full model", "down, of full model"]
    title = "Held-out loss before and after; mean bytes of one client in one round, and their share of the full model"
    return Table(title, heads, rows, num_words=2) if rows else None


def _result_cells(run: RunRecord, strategy: StrategyRecord, model_type: str, *, has_accuracy: bool) -> Iterator[str]:
    curve = strategy.loss_curves()[model_type]
    before, after = curve[0][1], curve[-1][1]
    yield from (str(run.fleet.get(model_type) or "?"), format_number(before), format_number(after))
    yield f"{after - before:+.3f}"
    if has_accuracy:
        accuracy = strategy.loss_curves("accuracy/eval").get(model_type)
        yield f"{100 * accuracy[-1][1]:.1f} %" if accuracy else "-"
    full = strategy.full_model_bytes(model_type)
    for direction in ("up", "down"):
        sent = strategy.ledger.bytes_per_turn(model_type, direction)
        share = f", {format_share(sent, full)}" if sent is not None and full else ""
        yield f"{format_bytes(sent)}{share}" if sent is not None else "-"


def _digest(run: RunRecord) -> str:
    return f"Digest of the data: {run.data_digest}." if run.data_digest else ""


def _startup(run: RunRecord) -> Iterator[Table]:
    for strategy in run.strategies:
        startup = strategy.summary.get("startup")
        if isinstance(startup, dict) and startup:
            rows = [[str(what), format_number(value, 2)] for what, value in startup.items() if _is_number(value)]
            yield Table(f"{strategy.name}: seconds before round 1", ("what", "seconds"), rows, is_folded=True)


def _warnings(run: RunRecord) -> Section:
    section = Section("warnings", "Warnings and gaps", empty="None: no leak was found and nothing is missing.")
    leaks = [f"{each.name}: {leak}" for each in run.strategies if each.profile for leak in each.profile.leaks]
    gaps = [sentence for sentence in run.all_missing() if ": The run failed: " not in sentence]
    section.lists += [(heading, found) for heading, found in (("Memory", leaks), ("Missing or damaged", gaps)) if found]
    section.listing = run.failure[-_LONGEST_FAILURE:]
    return section


def _alert(run: RunRecord) -> str:
    done, asked = run.strategies[0].metrics.newest_round, run.rounds or "?"
    told = {
        "failed": f"This run failed: {run.failure.splitlines()[-1][:400] if run.failure else ''}",
        "running": f"This run is at work, or was killed: round {done} of {asked} is the newest that is here.",
        "stopped": f"This run has not ended: round {done} of {asked} is the newest. `heterotune resume` goes on.",
    }
    return told.get(run.state, "")


def _metrics_table(strategy: StrategyRecord) -> Table:
    rows = [
        _metric_row(name, key, curve, strategy.metrics.units.get(name, ""))
        for name, curves in sorted(strategy.metrics.curves.items())
        for key, curve in curves.items()
        if curve.num_values and "client" not in dict(key)
    ]
    cut = f", the first {_MOST_METRIC_ROWS} are here" if len(rows) > _MOST_METRIC_ROWS else ""
    heads = ("metric", "of", "unit", "rounds", "first", "last", "least", "greatest")
    return Table(
        f"{strategy.name}: {len(rows)} metrics{cut}", heads, rows[:_MOST_METRIC_ROWS], num_words=3, is_folded=True
    )


def _metric_row(name: str, key: CurveKey, curve: ThinnedSeries, unit: str) -> list[str]:
    ends = [end[1] if end else None for end in (curve.first, curve.last)]
    of = ", ".join(f"{field} {value}" for field, value in key)
    return [name, of, unit, str(curve.num_values), *(_short(value) for value in (*ends, curve.least, curve.greatest))]


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _without_facts(text: str) -> str:
    """Leave out the comments above the config: the environment has a section of its own."""
    lines = text.splitlines(keepends=True)
    first = next((place for place, line in enumerate(lines) if not line.startswith("# ")), len(lines))
    return "".join(lines[first:])


def _environment(run: RunRecord) -> Iterator[Table]:
    rows = [*run.environment.items(), ("run folder", str(run.folder))]
    yield Table("Versions and hardware", ("what", "value"), rows, num_words=2)
    digests = [(each.name, str(each.summary.get("global_adapter_sha256", "-"))) for each in run.strategies]
    yield Table("sha256 of the global adapters", ("strategy", "digest"), digests, num_words=2)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
