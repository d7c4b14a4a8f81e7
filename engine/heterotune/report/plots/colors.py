"""Colours of plots, each for a light and a dark page. A figure is drawn in the light ones; the page swaps them."""

from __future__ import annotations

INK, MUTED, GRID, PAPER = "#1c2128", "#5c6570", "#e1e5ea", "#ffffff"
POSITIVE, NEGATIVE, AMOUNT = "#2f7fd6", "#d9483b", "#2b8a8f"
SERIES = ("#1f6feb", "#d4610a", "#1a8a4a", "#8250df", "#c9283e", "#0d8a94", "#8a6116", "#bf3989")
LINES = ("-", "--", "-.", ":")
"""Styles besides colours, for those who cannot tell the colours apart."""

DARK = {
    INK: "#e6edf3",
    MUTED: "#9aa5b1",
    GRID: "#30363d",
    POSITIVE: "#58a6ff",
    NEGATIVE: "#ff7b72",
    AMOUNT: "#45c4ca",
    **dict(
        zip(
            SERIES,
            ("#6cb0ff", "#ff9d4d", "#4fcf86", "#c297ff", "#ff7b86", "#3fd0da", "#dcb15f", "#ff80c8"),
            strict=True,
        )
    ),
}
"""Light colour -> dark one; a colour that is not here is the same on both pages."""

VARIABLES = {light: f"--plot-{number}" for number, light in enumerate(DARK)}
"""Light colour -> the page's CSS variable for it."""


def series_color(place: int) -> str:
    """Return the colour of a series; they repeat after the last one."""
    return SERIES[place % len(SERIES)]


def line_style(place: int) -> str:
    """Return the line style of a series: neighbours differ, so that nobody depends on colour."""
    return LINES[place % len(LINES)]


def css_variables(*, dark: bool) -> str:
    """Return the declarations of the variables for one of the two pages."""
    return " ".join(f"{name}: {DARK[light] if dark else light};" for light, name in VARIABLES.items())
