"""Stage 5: one self-contained HTML page from a run's artefacts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trace_ray.config import Config
from trace_ray.report.page import page_of, report_sections
from trace_ray.report.sections.decision import Decision
from trace_ray.report.sections.warnings import Caution
from trace_ray.runs.artifacts import Run


@dataclass(frozen=True)
class Told:
    """What a page tells that a terminal repeats."""

    warnings: Sequence[Caution]
    decision: Decision


def run_report(run: Run, config: Config) -> Told:
    """Writes report.html from what is on disk; always anew, it costs seconds. Returns what a terminal repeats of it."""
    sections = report_sections(run, config)
    run.report.write_text(page_of(run, sections))
    return Told(sections["warnings"], sections["decision"])
