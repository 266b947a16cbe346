"""The comparison as one self-contained HTML page, in the report's look."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from trace_ray.compare.answers import Answers, run_differences, unlike_answers
from trace_ray.compare.collect import STAGES, RunRecord, differences
from trace_ray.compare.table import comparison
from trace_ray.look.figure import Picture, picture, shortened
from trace_ray.look.style import environment
from trace_ray.look.theme import LIGHT

FOLDER = Path(__file__).parent
STAGE_COLOURS = ("retain", "invert", "realigned", "punish")
_NAME_CHARACTERS = {"wide": 40, "narrow": 18}


def comparison_page(records: Sequence[RunRecord], answers: Sequence[Answers] = ()) -> str:
    """Returns the page; it links to nothing outside itself.

    Args:
        answers: of each record's realigned model, in the same order; none = without differences and answers.
    """
    names = [record.name for record in records]
    script = (FOLDER / "compare.js").read_text(encoding="utf-8")
    facts = {name: [record.facts[name] for record in records] for name in records[0].facts}
    kept = [of_run for of_run in answers if of_run]
    page: str = (
        environment(FOLDER)
        .get_template("compare.html.jinja")
        .render(
            records=records,
            sections=[
                (name, list(lines)) for name, lines in groupby(comparison(records), key=lambda line: line.section)
            ],
            warnings=differences(records),
            versus=[run_differences(names, answers, at) for at in range(len(records))] if len(kept) > 1 else [],
            unlike=unlike_answers(answers) if len(kept) > 1 else [],
            alike={name: values[0] for name, values in facts.items() if len(set(values)) == 1},
            differing={name: values for name, values in facts.items() if len(set(values)) > 1},
            tpa=tpa_picture(records),
            cost=cost_picture(records),
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )
    return page


def tpa_picture(records: Sequence[RunRecord]) -> Picture:
    """Returns TPA of the realigned models with their intervals; the line is the first run's base."""
    said = "; ".join(f"{record.name} {record.tpa['realigned']['all']:.1f} %" for record in records)
    return picture(
        lambda figure, narrow: draw_tpa(figure, records, narrow=narrow),
        name="tpa",
        label=f"Target policy agreement: {said}.",
        wide=0.5 * len(records) + 1.1,
        narrow=0.5 * len(records) + 1.1,
    )


def draw_tpa(figure: Any, records: Sequence[RunRecord], *, narrow: bool) -> None:
    """Draws a point and an interval a run, on an axis from 0 to 100."""
    axes = figure.add_subplot()
    for place, record in enumerate(records):
        value = record.tpa["realigned"]["all"]
        low, high = record.interval.get("realigned", {}).get("all", [value, value])
        error = [[value - low], [high - value]]
        axes.errorbar([value], [place], xerr=error, fmt="o", color=LIGHT["realigned"], capsize=4)
    base = f"base of {shortened(records[0].name, _NAME_CHARACTERS['narrow' if narrow else 'wide'])}"
    axes.axvline(records[0].tpa["base"]["all"], color=LIGHT["base"], linestyle="--", label=base)
    _named(axes, records, narrow=narrow)
    axes.set_xlim(-2, 102)
    axes.set_xticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1))


def cost_picture(records: Sequence[RunRecord]) -> Picture:
    """Returns seconds by stage."""
    said = "; ".join(f"{record.name} {sum(record.seconds.values()):.0f} s" for record in records)
    return picture(
        lambda figure, narrow: draw_cost(figure, records, narrow=narrow),
        name="cost",
        label=f"Seconds by stage: {said}.",
        wide=0.5 * len(records) + 1.2,
        narrow=0.5 * len(records) + 1.5,
    )


def draw_cost(figure: Any, records: Sequence[RunRecord], *, narrow: bool) -> None:
    """Draws the stages' seconds stacked, a bar a run, from 0."""
    axes = figure.add_subplot()
    left = [0.0] * len(records)
    for stage, colour in zip(STAGES, STAGE_COLOURS, strict=True):
        width = [record.seconds.get(stage, 0.0) for record in records]
        axes.barh(range(len(records)), width, left=left, color=LIGHT[colour], label=stage)
        left = [a + b for a, b in zip(left, width, strict=True)]
    _named(axes, records, narrow=narrow)
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds")
    axes.legend(ncols=2 if narrow else 4, loc="lower left", bbox_to_anchor=(0, 1))


def _named(axes: Any, records: Sequence[RunRecord], *, narrow: bool) -> None:
    limit = _NAME_CHARACTERS["narrow" if narrow else "wide"]
    axes.set_yticks(range(len(records)), [shortened(record.name, limit) for record in records])
    axes.invert_yaxis()
    axes.margins(y=0.2)
    axes.tick_params(length=0)
