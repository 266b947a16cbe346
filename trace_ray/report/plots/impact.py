"""Impacts by category, and how few pairs carry how much weight."""

from __future__ import annotations

from typing import Any

import numpy as np

from trace_ray.look.figure import Picture, picture
from trace_ray.look.theme import LIGHT
from trace_ray.report.names import plain_category
from trace_ray.report.sections.impact import ImpactSection
from trace_ray.report.survey.values import Values

BINS = 30
POINTS = 200


def impact_picture(impact: ImpactSection) -> Picture:
    """Returns a histogram of impacts and, where weights differ, the curve of cumulated weight."""
    said = "; ".join(
        f"{plain_category(name)}: median {row['median']:.3g}, {100 * row['share_clamped']:.0f} % at or below 0"
        for name, row in sorted(impact.summary.items())
    )
    head = "" if impact.uniform else f" The heaviest tenth carries {impact.head_share:.0f} % of all weight."
    return picture(
        lambda figure, narrow: _draw(figure, impact, narrow=narrow),
        name="impact",
        label=f"Impacts by category ({said}).{head}",
        wide=3.2,
        narrow=2.8 if impact.uniform else 5.6,
    )


def _draw(figure: Any, impact: ImpactSection, *, narrow: bool) -> None:
    drawn = (_histogram,) if impact.uniform else (_histogram, _concentration)
    places = figure.subplots(*((len(drawn), 1) if narrow else (1, len(drawn))), squeeze=False)
    for draw, axes in zip(drawn, places.flatten(), strict=True):
        draw(axes, impact)
        axes.tick_params(length=0)


def _histogram(axes: Any, impact: ImpactSection) -> None:
    every = sum(impact.impacts.values(), Values())
    low, high = (every.quantile(share) for share in (0.005, 0.995)) if len(every) else (0.0, 0.0)
    axes.hist(
        [np.clip(found.numbers, low, high) for found in impact.impacts.values()],
        weights=[found.counts for found in impact.impacts.values()],
        bins=np.linspace(low, high, BINS + 1) if low < high else BINS,
        stacked=True,
        color=[LIGHT[n.lower()] for n in impact.impacts],
        label=[plain_category(n) for n in impact.impacts],
        linewidth=0,
    )
    axes.axvline(0, color=LIGHT["ink"], linewidth=1)
    clamped = "" if impact.uniform else " (at or below 0: weight 0)"
    axes.set_title(f"Impacts of the {impact.pairs_are}{clamped}", color=LIGHT["ink"])
    axes.set_ylabel(impact.pairs_are)
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))
    axes.legend()


def _concentration(axes: Any, impact: ImpactSection) -> None:
    weights = impact.every_weight
    share = np.linspace(0, 100, POINTS + 1)
    carried = [weights.of_highest(percent * len(weights) / 100) for percent in share]
    axes.plot([0, 100], [0, 100], color=LIGHT["line"], linewidth=1)
    axes.plot(share, 100 * np.array(carried) / max(weights.power_sum(1), 1e-300), color=LIGHT["realigned"], linewidth=2)
    axes.set_title(f"Weight carried by the heaviest {impact.pairs_are}", color=LIGHT["ink"])
    axes.set(xlabel=f"% of {impact.pairs_are}, heaviest first", ylabel="% of all weight", xlim=(0, 100), ylim=(0, 102))
