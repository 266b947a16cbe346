"""Stage 5: one self-contained HTML page from a run's artefacts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trace_ray.config import Config
from trace_ray.report.page import page_of, report_sections
from trace_ray.report.sections.decision import Decision
from trace_ray.report.sections.warnings import Caution
from trace_ray.report.survey.surveys import Over, Part, Seen, here
from trace_ray.runs.artifacts import Run
from trace_ray.runtime.progress import Meter

TASKS_FROM = 100_000
"""Pairs up to which this process looks at a run's rows itself, though it is connected to Ray."""
RAY_FROM = 2_000_000
"""Pairs up to which it does so where it is not: Ray's start takes as long."""


@dataclass(frozen=True)
class Told:
    """What a page tells that a terminal repeats."""

    warnings: Sequence[Caution]
    decision: Decision


def run_report(run: Run, config: Config) -> Told:
    """Writes report.html from what is on disk; always anew, it costs seconds. Returns what a terminal repeats of it."""
    sections = report_sections(run, config, _over(run, config))
    run.report.write_text(page_of(run, sections))
    return Told(sections["warnings"], sections["decision"])


def _over(run: Run, config: Config) -> Over:
    pairs = run.triaged.manifest()["counts"].get("triaged", 0) if run.triaged.done() else 0
    connected = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    if pairs <= (TASKS_FROM if connected else RAY_FROM):
        return here
    from trace_ray.cluster.connection import ensure_ray

    ensure_ray(config.ray)
    return by_parts


def by_parts(look: Callable[[Sequence[Part]], Seen], parts: Sequence[Part]) -> Seen:
    """Looks at the parts by Ray tasks, of some of them each; adds up what they saw."""
    from trace_ray.cluster.tasks import by_tasks, groups

    some = groups(parts)
    total = look([])
    with Meter("report: parts", len(some), "tasks") as meter:
        for seen in by_tasks(_look, some, look):
            total += seen
            meter.advance(1)
    return total


def _look(parts: Sequence[Part], look: Callable[[Sequence[Part]], Seen]) -> Seen:
    return look(parts)
