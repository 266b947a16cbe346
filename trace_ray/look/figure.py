"""A matplotlib drawing as inline SVG that follows the page's colours, in one size for desks and one for phones."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from trace_ray.look.theme import LIGHT

INCHES = {"wide": 9.6, "narrow": 4.3}
"""Drawn at about the size at which they are shown, so that text stays readable on both."""

Plot = Callable[[Any, bool], None]
"""Draws on a matplotlib Figure; the second argument is whether it is the narrow one."""

_SETTINGS = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names from the corpus may hold a dollar sign
    "font.family": "sans-serif",
    "font.size": 10.5,
    "text.color": LIGHT["ink"],
    "axes.edgecolor": LIGHT["line"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "xtick.color": LIGHT["line"],
    "ytick.color": LIGHT["line"],
    "xtick.labelcolor": LIGHT["muted"],
    "ytick.labelcolor": LIGHT["ink"],
    "grid.color": LIGHT["line"],
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Picture:
    """A drawing in both sizes, and in words for those who cannot see it."""

    label: str
    wide: Markup
    narrow: Markup


def picture(plot: Plot, *, name: str, label: str, wide: float, narrow: float) -> Picture:
    """Returns the plot drawn twice.

    Args:
        name: prefix of every id in the drawing, unique in the page.
        label: what it shows, in a sentence.
        wide, narrow: heights in inches.
    """
    drawn = {size: _svg(plot, f"{name}-{size}", height, size) for size, height in (("wide", wide), ("narrow", narrow))}
    return Picture(label, **drawn)


def shortened(text: str, limit: int) -> str:
    """Returns a name of at most ``limit`` characters: a longer one takes the plot's room, up to all of it."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _svg(plot: Plot, name: str, height: float, size: str) -> Markup:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")  # the browser's fonts are used, not matplotlib's
        figure = Figure(figsize=(INCHES[size], height), layout="constrained")
        plot(figure, size == "narrow")
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    drawing = out.getvalue()
    return Markup(_themed(drawing[drawing.index("<svg") :], name))  # noqa: S704 - matplotlib escapes its texts


def _themed(drawing: str, name: str) -> str:
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", drawing)
    for token, colour in LIGHT.items():
        drawing = drawing.replace(colour, f"var(--{token})")
    return drawing.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
