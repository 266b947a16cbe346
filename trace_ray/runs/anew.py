"""A stage that was begun under other settings begins anew where nothing would be lost or mixed; elsewhere it is refused.

Nothing is lost where the stage has finished no piece of work, or where it stopped at a mistake that names what has changed
since: whoever follows the advice may do so in the same run. What it left behind is deleted first, its record of inputs last,
so that a process killed in between leaves no piece behind that later work could be mixed with.

A triage of which only deciding's settings have changed (``config.deciding``) keeps its verdicts and decides anew; so does an
evaluation, a finished one too, of which only the labels or limits of its judge have: it is audited anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import pyarrow.fs as pafs

from trace_ray.config.deciding import all_auditing, all_deciding, is_auditing
from trace_ray.errors import JudgeRejectedError, StaleRunError, UserError
from trace_ray.runs.artifacts import (
    AGAIN,
    ANSWERS,
    DECIDED,
    GENERATED,
    INPUTS,
    RESPONSES,
    REVIEW,
    SCORES,
    STAGES,
    WORK,
    Changes,
    Inputs,
    Run,
    refuse_changed,
)
from trace_ray.runtime.progress import warn
from trace_ray.storage.location import Location

STOPPED = "stopped.json"
"""In a stage's first folder: the mistake at which it stopped last."""

_PIECES = {
    "triage": (
        rf"triaged/{WORK}/(judge|judged|decide)/",
        rf"triaged/{WORK}/attempts/(?!canaries).*\.parquet$",
        f"/{DECIDED}",
    ),
    "impact": (rf"impact/{SCORES}/.*\.json$", r"scored/.*\.parquet$"),
    "realign": (r"/checkpoints/checkpoint_[^/]+/", r"/rounds/[^/]+/trained/", r"/selection/candidates/"),
    "evaluate": (rf"evaluation/({GENERATED}|{RESPONSES}|attacks)/.*\.parquet$",),
    ANSWERS: (rf"{ANSWERS}/{GENERATED}/.*\.parquet$",),
}
"""What a stage has finished, as paths below the run: judged blocks and spans, scored shards, checkpoints, answers."""

_claimed: set[str] = set()
"""First folders of the stages that this process has begun or gone on with."""

_SETTING = re.compile(r"[a-z]\w*(?:\.\w+)+")
_CONTENT = {"model.path": "model files", "corpus.paths": "corpus file ", "policy.clauses": "policy"}
"""Inputs that stand for what a setting names."""


def begin(run: Run, stage: str, inputs: Inputs) -> bool:
    """Claims a stage's folders for these inputs.

    Returns: False where all are finished from the same inputs: nothing to do.
    Raises: StaleRunError where one was begun from others and the stage may not begin anew.
    """
    folders = run.made_by(stage)
    changes = {name: both for folder in folders for name, both in folder.changes(inputs).items()}
    if may_decide_anew(run, stage, changes):
        doing = "decides" if stage == "triage" else "audits its judge"
        warn(f"{stage} {doing} anew: {_said(changes)}; what was judged is kept")
        if stage == "triage":
            forget_decisions(run)
        for folder in folders:
            if folder.done():
                folder.reopen()
            folder.adopt(inputs)
    elif changes:
        if not may_begin_anew(run, stage, changes):
            for folder in folders:
                refuse_stale(run, stage, folder.place.uri, folder.changes(inputs))
        warn(f"{stage} begins anew: {_said(changes)}; nothing that counts was finished")
        for folder in folders:
            _clear(folder.place)
        if stage == "triage":
            (run.place / REVIEW).delete_folder()
    _forget(folders[0].place / STOPPED)
    _claimed.add(folders[0].place.uri)
    claimed = [folder.begin(inputs) for folder in folders]
    return any(claimed)


def _said(changes: Changes) -> str:
    name, (was, now) = min(changes.items())
    return f"{name} was {was!r}, is {now!r}"


def refuse_stale(run: Run, stage: str, uri: str, changes: Changes) -> None:
    """As ``refuse_changed``; a finished triage whose deciding alone has changed is told how to decide again.

    Of an evaluation, what alone would not be refused is not what it is refused for.
    """
    if stage == "triage" and run.triaged.done() and all_deciding(changes):
        name, (was, now) = min(changes.items())
        setting = name.partition(" ")[0]
        again = f"trace-ray decide --run {run.place.uri} {setting}=" + ("FILE" if name != setting else f"{now}")
        remedy = f"this run was decided with {was!r}; `{again}` decides again from what is judged, or use another --run"
        raise StaleRunError(f"{uri}: {name}", repr(now), remedy)
    told = {name: both for name, both in changes.items() if stage != "evaluate" or not is_auditing(name)}
    refuse_changed(uri, told or changes)


def may_decide_anew(run: Run, stage: str, changed: Iterable[str]) -> bool:
    """Returns whether an unfinished triage, or any evaluation, keeps its verdicts under other values of ``changed``."""
    if stage == "evaluate":
        return all_auditing(changed)
    return stage == "triage" and all_deciding(changed) and not run.triaged.done()


def forget_decisions(run: Run) -> None:
    """Deletes what an unfinished triage has decided; verdicts, and rows that could not be read, stay."""
    for folder in (run.triaged.place / WORK / "decide", run.place / REVIEW):
        folder.delete_folder()
    if (run.triaged.place / WORK / AGAIN).exists():  # its parts hold the pairs that are decided again
        return
    for artifact in (run.triaged, run.rejects):
        for part in artifact.parts():
            if part.name.startswith(DECIDED):
                part.fs.delete_file(part.path)


def may_begin_anew(run: Run, stage: str, changed: Iterable[str]) -> bool:
    """Returns whether a stage that was begun under other values of ``changed`` loses nothing by beginning anew."""
    folders = run.made_by(stage)
    if any(folder.done() for folder in folders):
        return False
    return not _has_finished_work(run, stage) or any(_named(name, _stopped(folders[0].place)) for name in changed)


def note_mistake(run: Run, stage: str, mistake: UserError) -> None:
    """Notes at what a stage stopped that this process had claimed; of triage only that its judge was refused."""
    folders = run.made_by(stage)
    if not folders or folders[0].place.uri not in _claimed or isinstance(mistake, StaleRunError):
        return
    _claimed.remove(folders[0].place.uri)
    if stage != "triage" or isinstance(mistake, JudgeRejectedError):  # else verdicts are worth what they cost
        (folders[0].place / STOPPED).write_text(json.dumps(str(mistake)))


def stopped_at(run: Run) -> dict[str, str]:
    """Returns {stage: the mistake at which it stopped last} of the stages that are not done."""
    found = {}
    for stage in STAGES:
        folders = run.made_by(stage)
        if folders and not all(folder.done() for folder in folders) and (said := _stopped(folders[0].place)):
            found[stage] = said
    return found


def _stopped(place: Location) -> str:
    try:
        return str(json.loads((place / STOPPED).read_text()))
    except (FileNotFoundError, ValueError):
        return ""


def _forget(place: Location) -> None:
    if place.exists():
        place.fs.delete_file(place.path)


def _named(changed: str, mistake: str) -> bool:
    """Whether a mistake's line names a setting, its section, or a neighbour in a section of its own.

    >>> _named("realign.learning_rate", "realign.learning_rate: 1.0: loss is not finite; use a lower one")
    True
    >>> _named("realign.batch", "realign.learning_rate: 1.0: loss is not finite; use a lower one")
    False
    >>> _named("evaluate.judge.backend", "evaluate.judge.model: x: vLLM cannot load it")
    True
    """
    where = mistake.partition(":")[0]
    for name in {where, *_SETTING.findall(mistake)}:
        section = name.rpartition(".")[0] if name.count(".") > 1 else name
        if changed == name or changed.startswith(f"{section}."):
            return True
        if changed == f"{name.removesuffix('.model')}: model files" or changed == f"{name} content":
            return True
        if name in _CONTENT and changed.startswith(_CONTENT[name]):
            return True
    return False


def _has_finished_work(run: Run, stage: str) -> bool:
    pieces = [re.compile(piece) for piece in _PIECES[stage]]
    return any(piece.search(path) for folder in run.made_by(stage) for path in _files(folder.place) for piece in pieces)


def _files(place: Location) -> Iterable[str]:
    """The files below a folder of a run, as /FOLDER/..."""
    infos = place.fs.get_file_info(pafs.FileSelector(place.path, recursive=True, allow_not_found=True))
    above = len(place.path) - len(place.name) - 1
    return [i.path[above:] for i in infos if i.type == pafs.FileType.File and not i.path.endswith(".tmp")]


def _clear(place: Location) -> None:
    for info in place.fs.get_file_info(pafs.FileSelector(place.path, allow_not_found=True)):
        if info.type == pafs.FileType.Directory:
            place.fs.delete_dir(info.path)
        elif info.base_name != INPUTS:
            place.fs.delete_file(info.path)
    _forget(place / INPUTS)
