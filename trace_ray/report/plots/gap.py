"""Stacked bars: the share of each category, all pairs first and then each source."""

from __future__ import annotations

from typing import Any

from trace_ray.pairs import Category
from trace_ray.report.figure import Picture, picture, shortened
from trace_ray.report.sections.gap import ALL, Gap, Shares
from trace_ray.report.theme import LIGHT

_LABEL_PERCENT = {"wide": 5.0, "narrow": 11.0}
_NAME_CHARACTERS = {"wide": 30, "narrow": 40}


def gap_picture(gap: Gap) -> Picture:
    """Returns the alignment-reality gap in one picture."""
    rows = [gap.overall, *(gap.by_source if len(gap.by_source) > 1 else [])]
    said = ", ".join(f"{category} {gap.overall.percent(category):.1f} %" for category in Category)
    return picture(
        lambda figure, narrow: _draw(figure, rows, narrow=narrow),
        name="gap",
        label=f"Share of each category. All pairs: {said}.",
        wide=0.62 + 0.42 * len(rows),
        narrow=0.75 + 0.66 * len(rows),
    )


def clause_picture(gap: Gap) -> Picture:
    """Returns the same shares by the clause that a response breaks."""
    said = ", ".join(f"{row.name} {row.total}" for row in gap.by_clause)
    return picture(
        lambda figure, narrow: _draw(figure, gap.by_clause, narrow=narrow),
        name="gap-clause",
        label=f"Share of each category among the pairs that break a clause. Pairs: {said}.",
        wide=0.62 + 0.42 * len(gap.by_clause),
        narrow=0.75 + 0.66 * len(gap.by_clause),
    )


def _draw(figure: Any, rows: list[Shares], *, narrow: bool) -> None:
    size = "narrow" if narrow else "wide"
    axes = figure.add_subplot()
    places = [i + (0.45 if i and rows[0].name == ALL else 0) for i in range(len(rows))]
    left = [0.0] * len(rows)
    for category in Category:
        shares = [row.percent(category) for row in rows]
        colour = LIGHT[category.lower()]
        thick = 0.52 if narrow else 0.74
        axes.barh(places, shares, left=left, height=thick, color=colour, edgecolor=LIGHT["ground"], linewidth=1.2)
        for place, start, share in zip(places, left, shares, strict=True):
            if share >= _LABEL_PERCENT[size]:
                text = f"{share:.0f} %" if share >= 1 else ""
                axes.text(start + share / 2, place, text, ha="center", va="center", color=LIGHT["on-fill"])
        left = [a + b for a, b in zip(left, shares, strict=True)]
    names = [shortened(row.name, _NAME_CHARACTERS[size]) for row in rows]
    if narrow:
        axes.set_yticks([])
        for place, name, row in zip(places, names, rows, strict=True):
            axes.text(0, place - 0.42, f"{name} ({row.total:,})", ha="left", va="center", color=LIGHT["ink"])
        axes.set_ylim(places[-1] + 0.4, -0.7)
    else:
        axes.set_yticks(places, [f"{name}  ({row.total:,})" for name, row in zip(names, rows, strict=True)])
        axes.set_ylim(places[-1] + 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
    axes.tick_params(axis="both", length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
