"""Before and after as pairs of dots with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trace_ray.look.figure import Picture, picture, shortened
from trace_ray.look.theme import LIGHT
from trace_ray.report.names import plain_category
from trace_ray.report.sections.change import ChangeRow

_MODELS = (("base", "o", 0.14), ("realigned", "D", -0.14))
_NAME_CHARACTERS = {"wide": 30, "narrow": 14}


def change_picture(rows: Sequence[ChangeRow], name: str) -> Picture:
    """Returns target policy agreement of both models, a line a group."""
    said = "; ".join(
        f"{plain_category(row.name)} from {row.base.value:.1f} to {row.realigned.value:.1f} %" for row in rows
    )
    return picture(
        lambda figure, narrow: _draw(figure, rows, narrow=narrow),
        name=name,
        label=f"Target policy agreement, base to realigned: {said}.",
        wide=0.9 + 0.48 * len(rows),
        narrow=1.0 + 0.55 * len(rows),
    )


def _draw(figure: Any, rows: Sequence[ChangeRow], *, narrow: bool) -> None:
    axes = figure.add_subplot()
    for at, row in enumerate(rows):
        axes.axhline(at, color=LIGHT["line"], linewidth=0.7, zorder=0)
        for model, marker, offset in _MODELS:
            share = getattr(row, model)
            axes.plot([share.low, share.high], [at - offset] * 2, color=LIGHT[model], linewidth=2.2, alpha=0.45)
            label = f"{model} model" if at == 0 else None
            axes.plot(share.value, at - offset, marker, color=LIGHT[model], markersize=7, label=label, linestyle="none")
    names = [shortened(plain_category(row.name), _NAME_CHARACTERS["narrow" if narrow else "wide"]) for row in rows]
    labels = names if narrow else [f"{name}  ({row.prompts})" for name, row in zip(names, rows, strict=True)]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-2, 102)
    axes.set_xticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    side, at = ("right", 1) if narrow else ("left", 0)  # a phone's plot may be narrower than its legend
    axes.legend(ncols=2, loc=f"lower {side}", bbox_to_anchor=(at, 1))
