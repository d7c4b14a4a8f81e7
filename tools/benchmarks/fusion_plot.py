"""Draws the table of `fusion.py`: what fusing gains, and how near the engine comes to the bare frozen model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

PANELS = {
    "fused_speedup": "8 clients in one pass, times faster than one by one",
    "auto_speedup": "what `chunk.clients: auto` picks, times faster than chunk 1",
    "share_of_limit_8": "share of a bare frozen forward and backward, chunk 8",
}
TARGETS = {"fused_speedup": 1.0, "auto_speedup": 1.0, "share_of_limit_8": 0.85}


def draw(summaries: Sequence[Mapping[str, object]], picture_file: Path) -> None:
    """Draw the figures of all shapes as PNG."""
    figure, panels = pyplot.subplots(1, len(PANELS), figsize=(15, 4.5), layout="constrained")
    for axes, (column, title) in zip(panels, PANELS.items(), strict=True):
        for ds_config, width in dict.fromkeys((s["ds_config"], s["width"]) for s in summaries):
            mine = [s for s in summaries if (s["ds_config"], s["width"]) == (ds_config, width)]
            style = "-" if ds_config == "none" else "--"
            tokens = [s["tokens_per_client"] for s in mine]
            axes.plot(tokens, [float(s[column]) for s in mine], style, marker="o", label=f"{ds_config}, width {width}")
        axes.axhline(TARGETS[column], color="gray", linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.set_xlabel("tokens per client and step")
        axes.set_title(title, fontsize=10)
        axes.set_ylim(bottom=0)
    panels[0].legend(fontsize=8)
    figure.savefig(picture_file, dpi=120)
