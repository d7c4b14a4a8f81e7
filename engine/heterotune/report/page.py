"""One self-contained HTML page out of sections: every style, script and picture is in the file."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heterotune import __version__
from heterotune.report.plots import colors
from heterotune.report.plots.plot import Cell, Picture, Plot, render
from heterotune.report.plots.svg import inline_svg, standalone_svg
from heterotune.report.quantities import format_number

LARGEST_BYTES = 3_000_000
"""A page that mail and browsers take without complaint."""
_TEMPLATES = Path(__file__).parent / "page_template"
_MOST_ROWS_SHOWN = 12
_LARGEST_LINK_BYTES = 100_000
_LARGEST_LINKS_BYTES = 1_200_000


@dataclass(frozen=True)
class Table:
    """A table of words.

    Attributes:
        caption: What it shows.
        columns: Heads.
        rows: Cells; the first of a row is its head.
        num_words: How many columns, from the left, hold words; numbers follow.
        is_folded: Whether it is shown only when somebody asks.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_words: int = 1
    is_folded: bool = False


@dataclass
class Section:
    """A part of the page with a heading.

    Attributes:
        name: Its anchor.
        title: Its heading.
        text: Below the heading.
        cards: (name, value, note) of single figures.
        tables: Its tables.
        plots: Its plots.
        lists: (heading, entries).
        listing: Text that keeps its lines, e.g. YAML.
        empty: What is said if there is nothing of all this.
    """

    name: str
    title: str
    text: str = ""
    cards: list[tuple[str, str, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    lists: list[tuple[str, Sequence[str]]] = field(default_factory=list)
    listing: str = ""
    empty: str = ""


@dataclass(frozen=True)
class Page:
    """A page before it is written.

    Attributes:
        title: Of the page.
        subtitle: Below it.
        badge: One word beside the title; its state.
        alert: What everybody must see first; "" = nothing.
        sections: In their order.
    """

    title: str
    subtitle: str
    badge: str
    alert: str
    sections: Sequence[Section]


def draw(page: Page, *, png: bool = False) -> dict[str, Picture]:
    """Draw all plots of a page, by name."""
    return {plot.name: render(plot, png=png) for section in page.sections for plot in section.plots}


def write_page(page: Page, pictures: dict[str, Picture]) -> str:
    """Return the page as HTML.

    Args:
        page: What is on it.
        pictures: Of `draw`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    loader = FileSystemLoader(_TEMPLATES)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    links = _Links()
    return environment.get_template("page.html").render(
        page=page,
        figures={name: _figure(picture, links) for name, picture in pictures.items()},
        css=Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8")),
        script=Markup((_TEMPLATES / "page.js").read_text(encoding="utf-8")),
        light=Markup(colors.css_variables(dark=False)),
        dark=Markup(colors.css_variables(dark=True)),
        version=__version__,
    )


def write_plots(pictures: dict[str, Picture], folder: Path) -> Iterator[Path]:
    """Write PNG, SVG and CSV of every plot into a folder, which is made; yields what was written.

    Raises:
        OSError: If that cannot be done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        contents = {"svg": standalone_svg(picture.svg).encode(), "csv": picture.plot.csv().encode(), "png": picture.png}
        for ending, content in contents.items():
            path = folder / f"{name}.{ending}"
            path.write_bytes(content)
            yield path


class _Links:
    """Hands out download links until they would make the page too large."""

    def __init__(self) -> None:
        self._left = _LARGEST_LINKS_BYTES

    def of(self, kind: str, content: str) -> str:
        """Return a data: link; "" if the content is too large for one."""
        link = f"data:{kind};base64,{base64.b64encode(content.encode()).decode()}"
        if len(link) > min(self._left, _LARGEST_LINK_BYTES * 4 // 3):
            return ""
        self._left -= len(link)
        return link


def _figure(picture: Picture, links: _Links) -> dict[str, Any]:
    """Return what the template needs of a plot."""
    from markupsafe import Markup

    plot = picture.plot
    frames = plot.frames and plot.frames | {
        "positive": f"var({colors.VARIABLES[colors.POSITIVE]})",
        "negative": f"var({colors.VARIABLES[colors.NEGATIVE]})",
    }
    return {
        "plot": plot,
        "svg": Markup(inline_svg(picture.svg, plot.name, plot.title, f"{plot.text} {plot.told}")),
        "svg_link": links.of("image/svg+xml", standalone_svg(picture.svg)),
        "csv_link": links.of("text/csv", plot.csv()),
        "frames": json.dumps(frames, separators=(",", ":")) if frames else "",
        "frame_labels": frames["labels"] if frames else [],
        "frame_groups": list(frames["groups"]) if frames else [],
        "rows": [[_shown(cell) for cell in row] for row in plot.rows[:_MOST_ROWS_SHOWN]],
        "num_rows": len(plot.rows),
    }


def _shown(cell: Cell) -> str:
    if isinstance(cell, float):
        return f"{cell:.0f}" if cell.is_integer() else format_number(cell, 4)
    return "-" if cell is None else str(cell)
