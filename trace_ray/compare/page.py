"""The comparison as one self-contained HTML page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from trace_ray.compare.collect import STAGES, RunRecord, differences
from trace_ray.compare.table import comparison

COLOURS = ("#4c9f70", "#d1793b", "#5477b0", "#b8485a")


def comparison_page(records: Sequence[RunRecord]) -> str:
    """Returns the page; it links to nothing outside itself."""
    from jinja2 import Environment, FileSystemLoader

    sections = [(name, list(lines)) for name, lines in groupby(comparison(records), key=lambda line: line.section)]
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    return templates.get_template("compare.html.jinja").render(
        records=records,
        sections=sections,
        warnings=differences(records),
        tpa=tpa_plot(records),
        cost=cost_plot(records),
    )


def tpa_plot(records: Sequence[RunRecord]) -> str:
    """Returns TPA of the realigned models with their intervals as SVG; the line is the first run's base."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.5 * len(records) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    for place, record in enumerate(records):
        value = record.tpa["realigned"]["all"]
        low, high = record.interval.get("realigned", {}).get("all", [value, value])
        axes.errorbar([value], [place], xerr=[[value - low], [high - value]], fmt="o", color=COLOURS[0], capsize=4)
    axes.axvline(records[0].tpa["base"]["all"], color="#888", linestyle="--", label=f"base of {records[0].name}")
    axes.set_yticks(range(len(records)), [record.name for record in records])
    axes.invert_yaxis()
    axes.margins(y=0.2)
    axes.set_xlabel("target policy agreement, %, with 95 % interval")
    axes.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1))
    return svg(figure)


def cost_plot(records: Sequence[RunRecord]) -> str:
    """Returns seconds by stage as SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.5 * len(records) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(records))
    left = [0.0] * len(records)
    for stage, colour in zip(STAGES, COLOURS, strict=True):
        width = [record.seconds.get(stage, 0.0) for record in records]
        axes.barh(places, width, left=left, color=colour, label=stage)
        left = [a + b for a, b in zip(left, width, strict=True)]
    axes.set_yticks(places, [record.name for record in records])
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
    return svg(figure)


def svg(figure: Any) -> str:
    """Returns a matplotlib figure as an SVG element."""
    from markupsafe import Markup

    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    drawing = out.getvalue()
    return Markup(drawing[drawing.index("<svg") :])  # noqa: S704 - matplotlib's drawing, its texts escaped by it
