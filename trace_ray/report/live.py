"""A run in progress on one page, from the files that it writes anyway; nothing is asked of its processes."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trace_ray.errors import UserError
from trace_ray.pairs import TRAINED, Category, RejectReason
from trace_ray.report.page import TEMPLATES, template
from trace_ray.report.sections.cost import CostSection, cost_section
from trace_ray.report.sections.training import Curve, thinned
from trace_ray.runs.anew import stopped_at
from trace_ray.runs.artifacts import WORK, Run
from trace_ray.runs.figures import training_figures
from trace_ray.runs.status import DRIVER, State, status
from trace_ray.runs.validations import validations, with_validations

POINTS = 120
LAST_STEPS = 6
WIDTH, HEIGHT, EDGE = 320.0, 110.0, 4.0
"""Of a curve's drawing, in its own units."""
_CURVES = (
    ("loss", "loss of a pair", "Should fall; of still right it is the KL and should stay near 0."),
    (
        "reward_raised",
        "preferred: displacement",
        "Implicit reward, beta times nats; below 0 what is preferred is pushed down too.",
    ),
    ("reward_lowered", "suppressed: displacement", "Implicit reward of what is suppressed; should fall."),
)


@dataclass(frozen=True)
class Drawn:
    """One plot: {series: SVG points}, its range and what to look for."""

    title: str
    note: str
    series: Mapping[str, str]
    low: float
    high: float
    last_step: int


@dataclass(frozen=True)
class Live:
    """What a run is at.

    Args:
        states: of its folders; driver: its facts, None where none holds the run.
        driver_state: ``at work`` | ``gone`` | ``silent``.
        categories: pairs decided so far; rejects: rows refused so far, by reason.
        steps: the last ones' figures; memory_gib: of one training worker, the peak so far.
        judge_busy: share of its time in which the judge's engine computed; gpu_busy: of the training's first GPU, the mean
            of the last steps. None where nothing has told.
        stopped: {stage: the mistake at which it stopped}, of stages that are not done.
    """

    states: Sequence[State]
    driver: Mapping[str, Any] | None
    driver_state: str
    categories: Mapping[str, int]
    rejects: Mapping[str, int]
    curves: Sequence[Drawn]
    steps: Sequence[Mapping[str, Any]]
    memory_gib: float | None
    judge_busy: float | None
    gpu_busy: float | None
    cost: CostSection
    report: bool
    stopped: Mapping[str, str]

    @property
    def decided(self) -> int:
        return sum(self.categories.values())

    def percent(self, category: str) -> float:
        """Returns a category's share of the pairs decided so far."""
        return 100 * self.categories.get(category, 0) / max(1, self.decided)


def live_state(run: Run) -> Live:
    """Returns what the run's files say now; what is damaged is left out here, and named by its state."""
    states = list(status(run))
    driver = next((facts for name, _, facts in states if name == DRIVER), None)
    rows = _whole(lambda: training_figures(run), [])
    counts = _whole(lambda: _triage_counts(run), Counter())
    return Live(
        states=[state for state in states if state[0] != DRIVER],
        driver=driver,
        driver_state=next((state for name, state, _ in states if name == DRIVER), ""),
        categories={name.value: counts[name.value] for name in Category if counts[name.value]},
        rejects={reason.value: counts[reason.value] for reason in RejectReason if counts[reason.value]},
        curves=list(_curves(with_validations(rows, _whole(lambda: validations(run), [])))),
        steps=rows[-LAST_STEPS:],
        memory_gib=max((row["memory_gib"] for row in rows if "memory_gib" in row), default=None),
        judge_busy=_whole(lambda: _judge_busy(run), None),
        gpu_busy=_mean([row["gpu_busy"] for row in rows[-POINTS:] if "gpu_busy" in row]),
        cost=_whole(lambda: cost_section(run), CostSection([], None)),
        report=run.report.exists(),
        stopped=stopped_at(run),
    )


def _whole(read: Any, otherwise: Any) -> Any:
    """A run that is being written, or that was killed, may hold a file that is cut short."""
    try:
        return read()
    except (UserError, ValueError, OSError):
        return otherwise


def _triage_counts(run: Run) -> Counter[str]:
    """Counts categories and reasons: of a finished triage its own, else those of the blocks that are decided."""
    if run.triaged.done():
        tallies = [run.triaged.manifest()["counts"], run.rejects.manifest()["counts"] if run.rejects.done() else {}]
    else:
        places = (run.triaged.place / WORK / "decide").files(".json")
        tallies = [json.loads(place.read_text())["counts"] for place in places]
    counts: Counter[str] = Counter()
    for tally in tallies:
        for name, number in tally.items():
            counts[name.rpartition(" ")[2]] += number
    return counts


def _judge_busy(run: Run) -> float | None:
    """Of a finished triage its manifest's, else from the tallies of the blocks that are judged."""
    if run.triaged.done():
        share: float | None = run.triaged.manifest().get("engine_busy_share")
        return share
    used = [json.loads(place.read_text())["counts"] for place in (run.triaged.place / WORK / "judge").files(".json")]
    busy, waited = (sum(counts.get(name, 0) for counts in used) for name in ("engine_ms", "engine_waited_ms"))
    return busy / (busy + waited) if busy + waited else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _curves(rows: Sequence[Mapping[str, Any]]) -> Iterator[Drawn]:
    for key, title, note in _CURVES:
        series = {name: _points(rows, f"{name}/{key}") for name in TRAINED}
        if any(series.values()):
            yield drawn(title, note, {name: curve for name, curve in series.items() if curve})
    for key in sorted({key for row in rows for key in row if key.startswith("dev")} | {"grad_norm"}):
        if curve := _points(rows, key):
            yield drawn(key.replace("_", " "), "", {"all": curve})


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> Curve:
    return thinned([(row["step"], row[key]) for row in rows if row.get(key) is not None], POINTS)


def drawn(title: str, note: str, series: Mapping[str, Curve]) -> Drawn:
    """Returns the curves as points of one SVG polyline each; the height spans all of them, and 0.

    >>> drawn("loss", "", {"INVERT": [(0, 0.0), (10, 2.0)]}).series
    {'INVERT': '4.0,106.0 316.0,4.0'}
    """
    every = [point for curve in series.values() for point in curve]
    first, last = min(step for step, _ in every), max(step for step, _ in every)
    low, high = min(0.0, *(value for _, value in every)), max(0.0, *(value for _, value in every))

    def place(step: float, value: float) -> str:
        x = EDGE + (WIDTH - 2 * EDGE) * (step - first) / ((last - first) or 1)
        y = HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * (value - low) / ((high - low) or 1)
        return f"{x:.1f},{y:.1f}"

    lines = {name: " ".join(place(*point) for point in curve) for name, curve in series.items()}
    return Drawn(title, note, lines, low, high, round(last))


def live_fragment(run: Run) -> str:
    """Returns what changes of the page, as HTML."""
    return str(template("live.html.jinja").render(live=live_state(run), categories=list(Category)))


def live_page(run: Run, *, follows: bool) -> str:
    """Returns the whole page; ``follows``: it asks its own server for what has changed, else it is a snapshot."""
    script = (TEMPLATES / "watch.js").read_text(encoding="utf-8") if follows else ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    told = {"run": run.place.uri, "live": live_state(run), "categories": list(Category)}
    return str(template("watch.html.jinja").render(**told, script=script, script_hash=digest))
