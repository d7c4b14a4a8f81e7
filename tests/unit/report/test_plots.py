"""Every plot of a small run says in numbers what it draws, and its SVG is fit to stand in a page."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from heterotune.report.data_record import ClientData
from heterotune.report.plots import colors
from heterotune.report.plots.conflicts import conflict_plots
from heterotune.report.plots.cosines import AFTER, BEFORE, read_cosines, slider_frames
from heterotune.report.plots.data_skew import skew_plots
from heterotune.report.plots.heat_map import STRONGEST, color_of, strength
from heterotune.report.plots.learning import learning_plots
from heterotune.report.plots.memory import memory_plots
from heterotune.report.plots.message_bytes import bytes_plots, loss_by_bytes
from heterotune.report.plots.plot import Plot, render
from heterotune.report.plots.svg import inline_svg, standalone_svg
from heterotune.report.plots.timing import timing_plots
from heterotune.report.run_record import RunRecord, read_run

MIB = 2**20


@pytest.fixture
def run(make_run) -> RunRecord:
    return read_run(make_run())


def rows_of(plot: Plot) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(plot.csv())))


def named(plots, name: str) -> Plot:
    (found,) = [plot for plot in plots if plot.name == name]
    return found


def test_learning_curves_have_every_strategy_and_model_type(run) -> None:
    plots = list(learning_plots(run.strategies, ["a", "b"]))
    assert [plot.name for plot in plots] == ["learning-curves", "accuracy"]
    rows = rows_of(plots[0])
    assert len(rows) == 2 * 2 * 3
    assert rows[2] == {"strategy": "heterotune", "model_type": "a", "metric": "loss/eval", "round": "2", "value": "2.8"}
    assert "a, heterotune: 3.000 to 2.800" in plots[0].told


def test_bytes_are_added_up_and_stand_beside_the_loss_of_their_round(run) -> None:
    assert loss_by_bytes(run.strategies[0], "a") == [(0.0, 3.0), (3.0, 2.9), (6.0, 2.8)]
    bars = rows_of(named(bytes_plots(run.strategies, ["a", "b"]), "bytes-per-client"))
    assert [float(bars[0][f"{way}_bytes_per_client_round"]) for way in ("up", "down")] == [MIB, 2 * MIB]
    assert bars[0]["full_model_bytes"] == str(10 * MIB)


def test_memory_by_component_by_rank_and_by_strategy(run) -> None:
    plots = list(memory_plots(run.strategies))
    parts = rows_of(named(plots, "memory-components"))
    assert {(row["phase"], row["mpi_rank"]) for row in parts} == {(p, r) for p in ("train", "evaluate") for r in "01"}
    assert (parts[0]["runtime_bytes"], parts[0]["unexplained_bytes"]) == (str(100 * MIB), str(200 * MIB))
    ranks = rows_of(named(plots, "memory-ranks"))
    assert [row["train_peak_bytes"] for row in ranks] == [str(300 * MIB), str(310 * MIB)]
    assert [row["strategy"] for row in rows_of(named(plots, "memory-strategies"))] == ["heterotune", "fedavg_lora"]


def test_conflicts_are_ordered_as_the_fleet_whatever_the_pair_says(run) -> None:
    cosines = read_cosines(run.strategies[0], ["a", "b"])
    assert cosines.pairs == [("a", "b")] and list(cosines.stages) == [BEFORE, AFTER]
    matrix = named(conflict_plots(run.strategies[:1], ["a", "b"]), "conflicts-heterotune")
    assert [(row["stage"], row["mean"]) for row in rows_of(matrix)] == [(BEFORE, "-0.5"), (AFTER, "0.25")]
    assert read_cosines(run.strategies[0], []).model_types == ["a", "b"]


def test_the_slider_has_the_mean_and_then_every_round(run) -> None:
    frames = slider_frames(read_cosines(run.strategies[0], ["a", "b"]))
    assert frames["labels"] == ["mean of all rounds", "round 1", "round 2"] and frames["pairs"] == [(0, 1)]
    assert frames["groups"]["head"] == {"before": [[-0.5]] * 3, "after": [[0.25]] * 3}
    assert frames["scale"] == 0.5


def test_without_cosines_there_is_no_plot_of_conflicts(run) -> None:
    run.strategies[0].metrics.curves.clear()
    assert list(conflict_plots(run.strategies[:1], ["a", "b"])) == []


def test_who_holds_what_and_who_took_part(run) -> None:
    plots = list(skew_plots(run))
    assert [plot.name for plot in plots] == ["rows-per-client", "data-skew", "participation"]
    assert [row["rows"] for row in rows_of(plots[1])] == ["9", "1", "3"]
    assert rows_of(plots[2])[0] == {"client": "0", "model_type": "a", "rounds": "2"}


def test_many_clients_are_put_together_and_it_is_said(run) -> None:
    run.clients = [ClientData(n, "ab"[n % 2], 5, 1, {}, {f"label{n % 30}": 5}) for n in range(1000)]
    rows, kinds = list(skew_plots(run))[:2]
    assert "There are 1000 clients: a bar is the mean of neighbours." in rows.notes[0] and len(rows.rows) == 1000
    assert any("a line is a model type" in note for note in kinds.notes)
    assert any("Of 30 labels" in note for note in kinds.notes)
    assert len(render(kinds).svg) < 60_000 and len(render(rows).svg) < 120_000


def test_phases_add_up_to_the_round_and_the_rest_is_named(run) -> None:
    plots = list(timing_plots(run))
    assert [plot.name for plot in plots] == ["phases", "idle-share", "timeline"]
    seconds = {
        row["phase"]: float(row["seconds"])
        for row in rows_of(plots[0])
        if (row["strategy"], row["round"]) == ("heterotune", "1")
    }
    assert seconds == {"train": 1.5, "evaluate": 0.25, "other": 0.25}
    assert "heterotune: mean 5.0 %, most idle rank 10.0 %" in plots[1].told
    assert rows_of(plots[2])[0] == {"mpi_rank": "0", "phase": "train", "start_seconds": "0.0", "seconds": "0.9"}


def test_a_cell_is_stronger_the_further_from_zero() -> None:
    assert (strength(None, 1.0), strength(-2.0, 1.0), strength(0.5, 1.0)) == (0.0, STRONGEST, STRONGEST / 2)
    assert color_of(-0.1, True) == colors.NEGATIVE and color_of(0.1, True) == colors.POSITIVE


@pytest.fixture
def picture(run):
    return render(next(iter(conflict_plots(run.strategies[:1], ["a", "b"]))), png=True)


def test_a_picture_is_the_same_each_time(run, picture) -> None:
    again = render(next(iter(conflict_plots(run.strategies[:1], ["a", "b"]))))
    assert again.svg == picture.svg and picture.png.startswith(b"\x89PNG") and not again.png


def test_inline_svg_has_its_own_ids_the_pages_colours_and_words_for_screen_readers(picture) -> None:
    root = ElementTree.fromstring(inline_svg(picture.svg, "name", "Title", "What it shows"))
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids)) and all(each.startswith("name-") for each in ids)
    assert "name-cell-before-0-1" in ids and "name-cell-after-1-0-text" in ids
    assert (root.find("title").text, root.find("desc").text) == ("Title", "What it shows")
    assert root.get("role") == "img" and root.get("aria-labelledby") == "name-svg-title name-svg-text"
    text = ElementTree.tostring(root, encoding="unicode")
    assert f"var({colors.VARIABLES[colors.INK]})" in text and not any(light in text for light in colors.DARK)
    assert "http" not in text
    references = set(re.findall(r"url\(#([^)]+)\)", text)) | {e.get("href")[1:] for e in root.iter() if e.get("href")}
    assert references <= set(ids)


def test_a_standalone_svg_is_on_white_and_rounded(picture) -> None:
    text = standalone_svg(picture.svg)
    root = ElementTree.fromstring(text)
    assert colors.PAPER in text and "var(" not in text and len(text) < len(picture.svg)
    paths = [element.get("d") for element in root.iter() if element.get("d")]
    assert paths and not re.search(r"\d\.\d{3}", " ".join(paths))


def test_every_light_colour_has_a_dark_one_of_its_own_variable() -> None:
    names = re.findall(r"--plot-\d+", colors.css_variables(dark=True))
    assert names == re.findall(r"--plot-\d+", colors.css_variables(dark=False)) == list(colors.VARIABLES.values())


def test_plots_are_drawn_without_the_global_state_of_pyplot() -> None:
    folder = Path(render.__code__.co_filename).parents[1]
    users = [path.name for path in folder.rglob("*.py") if "pyplot" in path.read_text()]
    assert users == []
