"""What training did, step by step: losses, margins and learning rate, thinned to what a plot can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trace_ray.config import ObjectiveConfig
from trace_ray.pairs import TRAINED
from trace_ray.report.names import plain_category
from trace_ray.report.sections.cost import duration
from trace_ray.runs.alarms import Alarm, raised
from trace_ray.runs.artifacts import Run
from trace_ray.runs.figures import training_figures
from trace_ray.runs.validations import Validation, validations

POINTS = 240
MARGIN = "mean margin (implicit reward)"
_SHOWN = {"loss": "mean loss of a pair", "margin": MARGIN}

Curve = list[tuple[float, float]]
"""(step, value) points."""


@dataclass(frozen=True)
class TrainingSection:
    """Curves and end figures of a training run.

    Args:
        curves: title -> {series name -> points}; the categories' names, or ``all``.
        trained: pairs seen by category.
        alarms: of what said that the training is sick, and notes.
        chosen: which step is kept and why, in a sentence; empty where none was chosen.
        caption: what the curves should do, which depends on each category's loss.
    """

    steps: int
    planned: int
    epochs: int
    tokens: int
    method: str
    curves: Mapping[str, Mapping[str, Curve]]
    trained: Mapping[str, int]
    caption: str
    chosen: str = ""
    alarms: Sequence[Alarm] = ()


def training_section(run: Run, objective: ObjectiveConfig, epochs: int) -> TrainingSection | None:
    """Returns what realign has written, finished or not; None before its first step."""
    rows = training_figures(run)
    if not rows:
        return None
    measured = validations(run)
    curves = training_curves(rows) | selection_curves(measured)
    return TrainingSection(
        steps=rows[-1]["step"],
        planned=rows[-1]["steps"],
        epochs=epochs,
        tokens=sum(row["tokens"] for row in rows),
        method=objective.method,
        curves=curves,
        trained={name: sum(row.get(f"{name}/pairs", 0) for row in rows) for name in TRAINED},
        caption=training_caption(objective, margin=MARGIN in curves),
        alarms=raised(rows),
        chosen=chosen_said(run.realign.manifest().get("selection", {}), measured) if run.realign.done() else "",
    )


def training_caption(objective: ObjectiveConfig, *, margin: bool) -> str:
    """Returns what the curves should do; ``margin``: whether one was recorded.

    A KL starts at 0, every other loss above it: dpo of a pair at ln 2, where model and reference are still the same.
    """
    terms = {name.value: objective.terms(name) for name in TRAINED}
    anchored = [name for name, some in terms.items() if some and all(term.entry.anchor for term in some)]
    falling = [name for name, some in terms.items() if some and name not in anchored]
    said = [f"Loss should fall for {_named(falling)}."] if falling else []
    if anchored:
        said.append(f"Loss should stay near 0 for {_named(anchored)}: it is the KL to the reference.")
    if margin:
        said.append(
            "A margin is relative to the reference: above 0, the new preference is stronger than the reference had it."
        )
    return " ".join(said)


def _named(names: Sequence[str]) -> str:
    return ", ".join(map(plain_category, names))


def training_curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Curve]]:
    """Returns the curves by title, each at most POINTS points, those that were never recorded left out."""
    found: dict[str, dict[str, Curve]] = {}
    for key, title in _SHOWN.items():
        series = {name: thinned(_points(rows, f"{name}/{key}")) for name in TRAINED}
        found[title] = {name: curve for name, curve in series.items() if any(value for _, value in curve)}
    for key, title in (("grad_norm", "gradient norm"), ("lr", "learning rate")):
        found[title] = {"all": thinned(_points(rows, key))}
    return {title: series for title, series in found.items() if any(series.values())}


def selection_curves(measured: Sequence[Validation]) -> dict[str, dict[str, Curve]]:
    """Returns the candidates' agreement and drift over the steps; nothing where none was measured."""
    if not measured:
        return {}
    groups = [name for name in (*TRAINED, "all") if name in measured[0].tpa]
    agreement = {name: [(float(candidate.step), candidate.tpa[name]) for candidate in measured] for name in groups}
    drift = {"all": [(float(candidate.step), candidate.drift) for candidate in measured]}
    return {"compliant answers to dev prompts, %": agreement, "dev drift, nats a token": drift}


def chosen_said(facts: Mapping[str, Any], measured: Sequence[Validation]) -> str:
    """Returns which step a selection kept, by what, and what choosing cost.

    Args:
        facts: of the selection, from realign/'s manifest; empty where there was none.
    """
    if not facts:
        return ""
    by_step = {candidate.step: candidate for candidate in measured}
    base, kept = by_step[0], by_step[facts["step"]]
    said = (
        f"Step {kept.step} is kept of {len(measured) - 1} candidates: {kept.tpa['all']:.1f} % of the answers to "
        f"{kept.prompts['all']:,} dev prompts comply, before training {base.tpa['all']:.1f} %."
    )
    if not kept.step:
        said = f"No candidate of {len(measured) - 1} is better than the model before training, which is kept."
    if facts.get("scale", 1.0) != 1.0:
        share = facts["dev_tpa_by_scale"][f"{facts['scale']:g}"]
        said += f" Its adapter is kept at scale {facts['scale']:g}, where {share:.1f} % comply."
    if facts["stopped"] is not None:
        said += f" Patience ran out at step {facts['stopped']}."
    share = f"{100 * facts['share_of_training']:.3g} % of the time that the steps took"
    return f"{said} Choosing took {duration(facts['seconds'])} ({share}) and {facts['tokens']:,} tokens."


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> Curve:
    return [(row["step"], row[key]) for row in rows if row.get(key) is not None]


def thinned(curve: Curve, points: int = POINTS) -> Curve:
    """Returns the means of runs of neighbouring points, so that at most ``points`` are left.

    >>> thinned([(1, 4.0), (2, 6.0), (3, 1.0)], points=2)
    [(1.5, 5.0), (3.0, 1.0)]
    """
    width = -(-len(curve) // points)
    if width <= 1:
        return curve
    chunks = [curve[i : i + width] for i in range(0, len(curve), width)]
    return [(sum(s for s, _ in c) / len(c), sum(v for _, v in c) / len(c)) for c in chunks]
