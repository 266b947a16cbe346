"""The stages in order; a stage that is up to date is left alone."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from trace_ray.cluster.capacity import unmet
from trace_ray.cluster.connection import elsewhere
from trace_ray.cluster.nodes import settle_gpus, this_machine
from trace_ray.cluster.stray import without_stray_line
from trace_ray.cluster.watchdog import watched
from trace_ray.config import Config
from trace_ray.config.check import check_needed, unfilled
from trace_ray.config.load import dump_config
from trace_ray.config.places import absolute_models
from trace_ray.errors import StaleRunError, UserError, inside
from trace_ray.runs.anew import note_mistake
from trace_ray.runs.artifacts import ANSWERS, INPUTS, STAGES, Run
from trace_ray.runs.lock import driver_lock
from trace_ray.runs.memory import PeakMemory, record_peak
from trace_ray.runs.opening import config_beside, hold_settings, open_run, run_folder, stored_config, with_dates
from trace_ray.runs.remembered import remembered
from trace_ray.runs.stage_figures import stage_figures
from trace_ray.runtime.progress import doing, doing_in_all, working
from trace_ray.storage.staging import share_settings

if TYPE_CHECKING:
    from trace_ray.report.stage import Told

__all__ = ["absolute_models", "open_run", "run_folder", "run_stages", "stage_runner", "stored_config", "user_error_in"]

Note = Callable[[str, str], None]
Ended = Callable[[str, "Told | None"], None]
Tellers = tuple[Note, Ended]
ANSWERING = ("triage", "evaluate")
"""Stages whose judge and engine make a further round's answers."""


def stage_runner(stage: str) -> Callable[[Run, Config], Any]:
    """Returns the function that runs one stage; heavy libraries are imported here, not before."""
    match stage:
        case "triage":
            from trace_ray.triage.stage import run_triage as runner
        case "impact":
            from trace_ray.impact.stage import run_impact as runner
        case "realign":
            from trace_ray.realign.stage import run_realign
            from trace_ray.selection.stage import run_selected
            from trace_ray.u2a import run_rounds

            def runner(run: Run, config: Config) -> None:
                once = run_selected if config.realign.select.steps else run_realign
                (run_rounds if config.objective.weights == "u2a" else once)(run, config)
        case "answers":
            from trace_ray.rounds.stage import run_answers as runner
        case "export":
            from trace_ray.realign.export_stage import run_export as runner
        case "evaluate":
            from trace_ray.evaluate.stage import run_evaluate as runner
        case "report":
            from trace_ray.report.stage import run_report

            return run_report
        case _:
            raise UserError("stage", stage, f"use one of {', '.join(STAGES)}")
    return runner


def run_stages(
    run: Run,
    config: Config,
    stages: Sequence[str] = STAGES,
    note: Note = lambda _stage, _state: None,
    ended: Ended = lambda _stage, _told: None,
    further: Callable[[Run, Config], Tellers] | None = None,
) -> None:
    """Runs stages in order; the report of what is known is written after each. After all of them come ``config.rounds``.

    Args:
        note: told each stage's name with ``start`` and then ``done``, or ``up to date``.
        ended: told each stage that was not up to date, after ``done``, and what the page tells then; None where there is none.
        further: gives note and ended for a further round; None = nobody is told of its stages.
    Raises: UserError for a user's mistake, whatever process of the cluster met it.
    """
    check_needed(config, stages)
    for problem in unfilled(config):
        raise problem
    share_settings(config.storage)
    config = absolute_models(config)
    with _driving(run, config):
        config = with_dates(run, config)
        hold_settings(run, config, stages)
        with config_beside(run, dump_config(config)):
            _run_stages(run, config, stages, note, ended)
        if config.rounds.number > 1 and set(STAGES) <= set(stages):
            from trace_ray.rounds.loop import run_rounds

            run_rounds(
                run, config, partial(_run_further, further or (lambda _run, _config: (_say_nothing, _say_nothing)))
            )


def _say_nothing(_stage: str, _said: Any) -> None: ...


def _run_further(tellers: Callable[[Run, Config], Tellers], run: Run, config: Config, stages: Sequence[str]) -> None:
    """Runs stages of a further round, which has a lock of its own: it may be reported, or gone on with, by itself."""
    with driver_lock(run.place, doing=doing):
        hold_settings(run, config, stages)
        with config_beside(run, dump_config(config)):
            _run_stages(run, config, stages, *tellers(run, config))


def decide_run(run: Run, before: Config, config: Config) -> bool:
    """Decides a run's triage again. As ``triage.again.decide_again``.

    Args:
        before: the run's settings; config: the same with others of deciding.
    Raises: UserError for a setting that differs and is not deciding's.
    """
    from trace_ray.triage.again import decide_again, refuse_judgings

    refuse_judgings(before, config)
    share_settings(config.storage)
    with _driving(run, config), working("decide"), config_beside(run, dump_config(config)):
        # Without corrections nothing reads, and nobody need look for GPUs.
        return decide_again(run, settle_gpus(config, ["triage"] if config.triage.correct else []))


@contextmanager
def _driving(run: Run, config: Config) -> Iterator[None]:
    """Holds the run for this process; a mistake that a process of the cluster met is raised as itself."""
    try:
        with (
            without_stray_line(),
            driver_lock(run.place, doing=doing_in_all),
            remembered(run.place),
            watched(config.ray, config.plan, run.place),
        ):
            yield
    except Exception as error:
        mistake = user_error_in(error)
        if mistake is None or mistake is error:
            raise
        raise mistake from error


def refuse_beyond_this_machine(config: Config, stages: Sequence[str]) -> None:
    """Raises UserError where a local Ray would wait for ever: a stage asks for more CPUs or GPUs than there are.

    A cluster of another's making may be larger, or grow.
    """
    if elsewhere(config.ray):
        return
    cpus = config.ray.local_cpus or os.cpu_count() or 1
    gpus = this_machine().gpus if any(unmet(config, stages, math.inf, 0, "")) else 0
    for problem in unmet(config, stages, cpus, gpus, "name a cluster by ray.address"):
        raise problem


def _refuse_unfit(config: Config, stages: Sequence[str]) -> None:
    """Raises UserError, before a stage begins, for what one of the stages would stop at."""
    if not stages:
        return
    from trace_ray.plan.preflight import preflight

    for problem in preflight(config, stages):
        raise problem


def _run_stages(run: Run, config: Config, stages: Sequence[str], note: Note, ended: Ended) -> None:
    waiting = [stage for stage in stages if run.made_by(stage) and not _is_done(run, config, stage)]
    waiting = [*waiting, *ANSWERING] if ANSWERS in waiting else waiting
    config = settle_gpus(config, waiting)
    refuse_beyond_this_machine(config, waiting)
    _refuse_unfit(config, waiting)
    for stage in stages:
        folders, before = run.made_by(stage), _is_done(run, config, stage)
        if not before:
            note(stage, "start")
        told = _run_stage(run, config, stage, new=bool(folders) and not before)
        note(stage, "up to date" if before else "done")
        if not before:
            ended(stage, told)


def _run_stage(run: Run, config: Config, stage: str, *, new: bool) -> Told | None:
    """Runs a stage and returns what the report of what is known then tells; ``new``: it was not done before."""
    memory = PeakMemory()
    try:
        with memory, working(stage):
            told: Told | None = stage_runner(stage)(run, config)
    except Exception as error:
        if (mistake := user_error_in(error)) is not None:
            note_mistake(run, stage, mistake)
            if not isinstance(mistake, StaleRunError):  # what is done was made under other settings than these
                _report_so_far(run, config)
        raise
    finally:  # an interrupted stage is resumed, and its peak may have been before
        if new and (run.made_by(stage)[-1].place / INPUTS).exists():
            record_peak(run.made_by(stage)[-1].place, memory.peak_bytes)
    if not new:
        return told
    if figures := stage_figures(run, stage):
        from trace_ray.realign.trackers import tell_once

        tell_once(config.realign.trackers, run.realign.place, run.place.uri, *figures)
    return _report_so_far(run, config)


def _report_so_far(run: Run, config: Config) -> Told | None:
    """Writes the report of what is done: days may lie between two stages, or a mistake. None where nothing can be told."""
    try:
        told: Told | None = stage_runner("report")(run, config)
    except UserError:  # what it lacks, a run that asks for a report tells at its end
        return None
    return told


def _is_done(run: Run, config: Config, stage: str) -> bool:
    folders = run.made_by(stage)
    if not folders or not all(artifact.done() for artifact in folders):
        return False
    if stage == "evaluate" and run.model.done():
        from trace_ray.evaluate.stage import audits_anew

        return not audits_anew(run, config)
    return True


def user_error_in(error: BaseException) -> UserError | None:
    """Returns the UserError that a Ray task or actor raised, from inside whatever Ray wrapped it in; a full disk is one."""
    for inner in inside(error):
        if isinstance(inner, UserError) and not hasattr(inner, "cause"):  # with one it is Ray's copy, its text a trace
            return inner
        if isinstance(inner, OSError) and inner.errno == errno.ENOSPC:
            remedy = "the disk is full; free some space and run again: what is finished is kept"
            return UserError("disk", inner.filename or "no space left", remedy)
    return None
