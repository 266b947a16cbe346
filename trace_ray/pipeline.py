"""The stages in order; a stage that is up to date is left alone."""

from __future__ import annotations

import errno
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from trace_ray.cluster.capacity import unmet
from trace_ray.cluster.watchdog import watched
from trace_ray.config import Config, JudgeConfig, StorageConfig, settings
from trace_ray.config.check import PLACEHOLDER, check_needed, unfilled
from trace_ray.config.load import dump_config, load_text
from trace_ray.config.policy import policy_identity
from trace_ray.config.templates import dated
from trace_ray.errors import UserError, inside
from trace_ray.runs.anew import may_begin_anew, note_mistake
from trace_ray.runs.artifacts import CONFIG, EXPORT, INPUTS, STAGES, Run, refuse_changed
from trace_ray.runs.identity import model_identity
from trace_ray.runs.lock import driver_lock
from trace_ray.runs.memory import PeakMemory, record_peak
from trace_ray.runtime.progress import doing, working
from trace_ray.storage.fingerprints import remembered
from trace_ray.storage.jsonl import read_utf8
from trace_ray.storage.location import locate, nearby, refuse_escapes
from trace_ray.storage.object_store import check_reachable
from trace_ray.storage.staging import share_settings

Note = Callable[[str, str], None]


def open_run(uri: str, config: Config) -> Run:
    """Returns the run's folder; nothing is created yet."""
    return run_folder(uri, config.storage)


def run_folder(uri: str, storage: StorageConfig) -> Run:
    """Returns the run's folder, which need not exist.

    Raises: UserError for a name that climbs with ``..``, a folder reached through a symlink inside the run, a bucket
        that is not there or refuses us.
    """
    if PLACEHOLDER in uri:
        raise UserError("--run", uri, f"put your own in place of {PLACEHOLDER}-...")
    place = locate(uri, storage)
    refuse_escapes(uri, place)
    if not place.is_local:
        check_reachable(storage, place.path, uri)
    return Run(place)


def stage_runner(stage: str) -> Callable[[Run, Config], None]:
    """Returns the function that runs one stage; heavy libraries are imported here, not before."""
    match stage:
        case "triage":
            from trace_ray.triage.stage import run_triage as runner
        case "impact":
            from trace_ray.impact.stage import run_impact as runner
        case "realign":
            from trace_ray.realign.stage import run_realign
            from trace_ray.rounds import run_rounds

            def runner(run: Run, config: Config) -> None:
                (run_rounds if config.objective.weights == "u2a" else run_realign)(run, config)
        case "export":
            from trace_ray.realign.export_stage import run_export as runner
        case "evaluate":
            from trace_ray.evaluate.stage import run_evaluate as runner
        case "report":
            from trace_ray.report.stage import run_report as runner
        case _:
            raise UserError("stage", stage, f"use one of {', '.join(STAGES)}")
    return runner


def absolute_models(config: Config) -> Config:
    """Returns the configuration with absolute paths for models in local folders: workers run in other folders."""

    def absolute(path: str) -> str:
        return os.path.abspath(path) if path and os.path.isdir(path) else path

    def found(judge: JudgeConfig) -> JudgeConfig:
        return replace(judge, model=absolute(judge.model))

    def perhaps(judge: JudgeConfig | None) -> JudgeConfig | None:
        return found(judge) if judge is not None else None

    triage, evaluate = config.triage, config.evaluate
    capability = replace(evaluate.capability, task_folder=absolute(evaluate.capability.task_folder))
    panel = [found(judge) for judge in evaluate.panel]
    return replace(
        config,
        model=replace(config.model, path=absolute(config.model.path)),
        triage=replace(
            triage,
            judge=found(triage.judge),
            first_judge=perhaps(triage.first_judge),
            second_judge=perhaps(triage.second_judge),
            corrector_judge=perhaps(triage.corrector_judge),
        ),
        evaluate=replace(evaluate, judge=found(evaluate.judge), capability=capability, panel=panel),
    )


def run_stages(
    run: Run, config: Config, stages: Sequence[str] = STAGES, note: Note = lambda _stage, _state: None
) -> None:
    """Runs stages in order.

    Args:
        note: told each stage's name with ``start`` and then ``done``, or ``up to date``.
    Raises: UserError for a user's mistake, whatever process of the cluster met it.
    """
    check_needed(config, stages)
    for problem in unfilled(config):
        raise problem
    share_settings(config.storage)
    config = absolute_models(config)
    try:
        with driver_lock(run.place, doing=doing), remembered(run.place), watched(config):
            config = with_dates(run, config)
            hold_settings(run, config, stages)
            with _config_beside(run, dump_config(config)):
                _run_stages(run, config, stages, note)
    except Exception as error:
        mistake = user_error_in(error)
        if mistake is None or mistake is error:
            raise
        raise mistake from error


def with_dates(run: Run, config: Config) -> Config:
    """Returns the configuration with the day that chat templates are told: the one on which the run was begun."""
    try:
        before = stored_config(run, run.place.uri)
    except UserError:  # none yet, or one that the run is about to write anew
        before = None
    return dated(config, before, time.strftime("%Y-%m-%d"))


def hold_settings(run: Run, config: Config, stages: Sequence[str]) -> None:
    """Raises StaleRunError where any stage was begun under other settings: a stage alone would mix two configurations.

    A stage that may begin anew holds nothing.
    """
    now = settings(with_dates(run, config), "") | {"policy": policy_identity(config.policy)}
    if {"impact", "realign", EXPORT, "evaluate"} & set(stages):
        now["model files"] = model_identity(config.model.path, config.model.revision, config.storage)
    for stage in STAGES:
        changes = [(artifact.place.uri, artifact.changed_settings(now)) for artifact in run.made_by(stage)]
        names = {name for _, changed in changes for name in changed}
        if names and not may_begin_anew(run, stage, names):
            for uri, changed in changes:
                refuse_changed(uri, changed)


@contextmanager
def _config_beside(run: Run, text: str) -> Iterator[None]:
    """Writes config.yaml; where the run stops before it has begun a stage, the one before is put back."""
    place = run.place / CONFIG
    before, begun = place.read_text() if place.exists() else None, _begun(run)
    run.write_config(text)
    try:
        yield
    except Exception:
        if _begun(run) == begun:
            if before is None:
                place.fs.delete_file(place.path)
            else:
                run.write_config(before)
        raise


def _begun(run: Run) -> dict[str, str]:
    """What each folder that was begun was begun with."""
    records = [one.place / INPUTS for stage in STAGES for one in run.made_by(stage)]
    return {record.path: record.read_text() for record in records if record.exists()}


def refuse_beyond_this_machine(config: Config, stages: Sequence[str]) -> None:
    """Raises UserError where a local Ray would wait for ever: a stage asks for more CPUs or GPUs than there are.

    A cluster of another's making may be larger, or grow.
    """
    if config.ray.address or os.environ.get("RAY_ADDRESS") or _ray_runs():
        return
    cpus, gpus = config.ray.local_cpus or os.cpu_count() or 1, 0
    if any(unmet(config, stages, math.inf, 0, "")):
        import torch

        gpus = torch.cuda.device_count()
    for problem in unmet(config, stages, cpus, gpus, "name a cluster by ray.address"):
        raise problem


def _refuse_unfit(config: Config, stages: Sequence[str]) -> None:
    """Raises UserError, before a stage begins, for what one of the stages would stop at."""
    if not stages:
        return
    from trace_ray.plan.preflight import preflight

    for problem in preflight(config, stages):
        raise problem


def _ray_runs() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def _run_stages(run: Run, config: Config, stages: Sequence[str], note: Note) -> None:
    waiting = [stage for stage in stages if run.made_by(stage) and not _is_done(run, stage)]
    refuse_beyond_this_machine(config, waiting)
    _refuse_unfit(config, waiting)
    for stage in stages:
        folders, before = run.made_by(stage), _is_done(run, stage)
        if not before:
            note(stage, "start")
        memory = PeakMemory()
        try:
            with memory, working(stage):
                stage_runner(stage)(run, config)
        except Exception as error:
            if (mistake := user_error_in(error)) is not None:
                note_mistake(run, stage, mistake)
            raise
        finally:  # an interrupted stage is resumed, and its peak may have been before
            if folders and not before and (folders[-1].place / INPUTS).exists():
                record_peak(folders[-1].place, memory.peak_bytes)
        note(stage, "up to date" if before else "done")


def _is_done(run: Run, stage: str) -> bool:
    folders = run.made_by(stage)
    return bool(folders) and all(artifact.done() for artifact in folders)


def user_error_in(error: BaseException) -> UserError | None:
    """Returns the UserError that a Ray task or actor raised, from inside whatever Ray wrapped it in; a full disk is one."""
    for one in inside(error):
        if isinstance(one, UserError) and not hasattr(one, "cause"):  # with one it is Ray's copy, its text a trace
            return one
        if isinstance(one, OSError) and one.errno == errno.ENOSPC:
            remedy = "the disk is full; free some space and run again: what is finished is kept"
            return UserError("disk", one.filename or "no space left", remedy)
    return None


def stored_config(run: Run, uri: str) -> Config:
    """Returns the configuration that a run keeps in its folder. Raises UserError where there is none, or none to read.

    Args:
        uri: what the user called the run.
    """
    place = run.place / CONFIG
    if not place.exists():
        raise UserError("--run", uri, f"no run there{nearby(run.place)}")
    return load_text(read_utf8(place, "--run"), place.uri)
