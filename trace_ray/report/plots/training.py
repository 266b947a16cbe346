"""Training curves as small multiples."""

from __future__ import annotations

from typing import Any

from trace_ray.look.figure import Picture, picture
from trace_ray.look.theme import LIGHT
from trace_ray.report.names import plain_category
from trace_ray.report.sections.training import TrainingSection


def training_picture(training: TrainingSection) -> Picture:
    """Returns one small plot for each figure that was recorded."""
    rows = -(-len(training.curves) // 2)
    return picture(
        lambda figure, narrow: _draw(figure, training, narrow=narrow),
        name="training",
        label="Training curves. " + "; ".join(_said(training, title) for title in training.curves),
        wide=2.5 * rows,
        narrow=2.3 * len(training.curves),
    )


def _said(training: TrainingSection, title: str) -> str:
    series = training.curves[title]
    return f"{title}: " + ", ".join(
        f"{'' if name == 'all' else plain_category(name) + ' '}from {curve[0][1]:.3g} to {curve[-1][1]:.3g}"
        for name, curve in series.items()
        if curve
    )


def _draw(figure: Any, training: TrainingSection, *, narrow: bool) -> None:
    columns = 1 if narrow else 2
    rows = -(-len(training.curves) // columns)
    grid = figure.subplots(rows, columns, squeeze=False)
    places = list(grid.flatten())
    for axes, (title, series) in zip(places, training.curves.items(), strict=False):
        for name, curve in series.items():
            colour = LIGHT["realigned"] if name == "all" else LIGHT[name.lower()]
            axes.plot(*zip(*curve, strict=True), color=colour, label=plain_category(name), linewidth=1.6)
        axes.tick_params(length=0)
        axes.set_xlim(0, training.planned)
        several = set(series) != {"all"}
        axes.set_title(title, color=LIGHT["ink"], pad=18 if several else None)
        if several:  # between title and curves, where it covers neither
            between = {"ncols": 3, "loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.1}
            axes.legend(handlelength=0.8, handletextpad=0.4, columnspacing=1, borderpad=0, **between)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4))
    for axes in places[len(training.curves) :]:
        axes.set_axis_off()
    places[len(training.curves) - 1].set_xlabel("step")
