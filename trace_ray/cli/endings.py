"""What the terminal says where a stage ends: its table, its warnings, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.text import Text

from trace_ray.cli.tables import evaluation_tables, impact_table, training_table, triage_table
from trace_ray.config import Config
from trace_ray.runs.artifacts import Run
from trace_ray.runs.figures import training_figures
from trace_ray.runs.summary import run_summary
from trace_ray.runtime.progress import warn

if TYPE_CHECKING:
    from trace_ray.report.stage import Told

TENSORBOARD = "tensorboard"
"""A tracker, and its folder in realign/."""


def tell_curves(out: Console, run: Run, config: Config) -> None:
    """Says how to look at the curves of a training that starts."""
    if TENSORBOARD in config.realign.trackers:
        _line(out, f"curves: tensorboard --logdir {run.shell_word}/realign/{TENSORBOARD}")


def tell_end(out: Console, run: Run, config: Config, stage: str, told: Told | None, *, more: bool) -> None:
    """Prints a finished stage's tables and warnings; where no stage follows, or none should, what to do now.

    Args:
        told: what the report of the run so far tells; None where it could not be written.
        more: whether another stage follows by itself.
    """
    for table in stage_tables(run, config, stage):
        out.print(table)
    if told is None:
        return
    for caution in told.warnings:
        if stage in (caution.stage, "report"):
            warn(f"{caution.text} What to do: {caution.remedy}.")
    decision = told.decision
    if not more or decision.word != "go on":
        _line(out, decision.sentence)
    if not more and decision.command:
        _line(out, f"next: {decision.command}")


def stage_tables(run: Run, config: Config, stage: str) -> Iterator[RenderableType]:
    """Yields what a finished stage made, as tables."""
    match stage:
        case "triage":
            yield triage_table(run_summary(run))
        case "impact":
            yield impact_table(run.scored.manifest())
        case "realign":
            yield training_table(training_figures(run))
        case "evaluate":
            yield from evaluation_tables(run_summary(run, config.report))


def _line(out: Console, text: str) -> None:
    out.print(Text(text), soft_wrap=True)
