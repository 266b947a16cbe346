"""A run's folder as its driver finds it: opened, and held to the configuration that it was begun with."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from trace_ray.config import Config, StorageConfig, settings
from trace_ray.config.check import PLACEHOLDER
from trace_ray.config.load import load_text
from trace_ray.config.policy import policy_identity
from trace_ray.config.templates import dated
from trace_ray.errors import UserError
from trace_ray.runs.anew import may_begin_anew, may_decide_anew, refuse_stale
from trace_ray.runs.artifacts import ANSWERS, CONFIG, EXPORT, INPUTS, STAGES, Run
from trace_ray.runs.identity import model_identity
from trace_ray.storage.jsonl import read_utf8
from trace_ray.storage.location import Location, locate, nearby
from trace_ray.storage.object_store import check_reachable


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
    _refuse_escapes(uri, place)
    if not place.is_local:
        check_reachable(storage, place.path, uri)
    return Run(place)


def _refuse_escapes(uri: str, place: Location) -> None:
    """Raises UserError where a run's name climbs, or the folder or one of its artefacts is a symlink to elsewhere."""
    if ".." in uri.split("/"):
        raise UserError("--run", uri, "a run's name holds no '..': give the folder itself")
    if not place.is_local:
        return
    names = [place.path]
    if os.path.isdir(place.path):
        names += [entry.path for entry in os.scandir(place.path)]
    for name in names:
        if os.path.islink(name):
            raise UserError("--run", name, f"a symlink to {os.readlink(name)}: give the folder itself")


def stored_config(run: Run, uri: str) -> Config:
    """Returns the configuration that a run keeps in its folder. Raises UserError where there is none, or none to read.

    Args:
        uri: what the user called the run.
    """
    place = run.place / CONFIG
    if not place.exists():
        raise UserError("--run", uri, f"no run there{nearby(run.place)}")
    return load_text(read_utf8(place, "--run"), place.uri)


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
        goes_on = stage in stages and may_decide_anew(run, stage, names)
        if names and not goes_on and not may_begin_anew(run, stage, names):
            for uri, changed in changes:
                refuse_stale(run, stage, uri, changed)


@contextmanager
def config_beside(run: Run, text: str) -> Iterator[None]:
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
    records = [artifact.place / INPUTS for stage in (ANSWERS, *STAGES) for artifact in run.made_by(stage)]
    return {record.path: record.read_text() for record in records if record.exists()}
