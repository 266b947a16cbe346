"""Stage 5: one self-contained HTML page from a run's artefacts."""

from __future__ import annotations

from trace_ray.config import Config
from trace_ray.report.page import render
from trace_ray.runs.artifacts import Run


def run_report(run: Run, config: Config) -> None:
    """Writes report.html from what is on disk; always anew, it costs seconds."""
    run.report.write_text(render(run, config))
