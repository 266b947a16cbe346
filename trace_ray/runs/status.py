"""How far a run is: its folders, and what its driver is at. Read from what is on disk, by anyone who can read the run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trace_ray.errors import UserError
from trace_ray.runs.artifacts import ANSWERS, GENERATED, INPUTS, RESPONSES, SCORES, STAGES, WORK, Artifact, Run
from trace_ray.runs.figures import training_figures
from trace_ray.runs.lock import BEAT_SECONDS, LOCK, PATIENCE, holder
from trace_ray.runs.rounds import ROUNDS, asked_rounds, ended, round_run
from trace_ray.runs.validations import validations_place

State = tuple[str, str, dict[str, Any]]
"""An artefact's name, ``done`` | ``begun`` | ``-``, and its counts, or DAMAGED and, under ``problem``, what is wrong with
it; or DRIVER, ``at work`` | ``gone`` | ``silent``, and what it was at last."""

DRIVER, DAMAGED = "driver", "damaged"
ENDED_ROUND = "ended"
"""The one artefact of a further round that found nothing to train on."""
SILENT_SECONDS = PATIENCE * BEAT_SECONDS
"""A driver that was not heard for longer may have died on another machine, where nobody can look for its process."""


def status(run: Run) -> Iterator[State]:
    """Yields the state of each folder of the run, of its report, likewise of its further rounds, and of its driver, if any."""
    for stage in STAGES:
        for artifact in run.made_by(stage):
            yield artifact.name, *_told(run, artifact)
    yield "report.html", "done" if run.report.exists() else "-", {}
    for number in range(2, asked_rounds(run) + 1):
        further = round_run(run, number)
        if reason := ended(further):
            yield round_name(number, ENDED_ROUND), "done", {"nothing left to train on": reason}
            break
        yield from _of_round(further, number)
    yield from _driver(run)


def round_name(number: int, artifact: str) -> str:
    """Returns what a further round's artefact is called among those of its run."""
    return f"{ROUNDS}/{number}/{artifact}"


def _of_round(further: Run, number: int) -> Iterator[State]:
    """The round's own states, and before them that of what it is made from."""
    yield round_name(number, ANSWERS), *_told(further, further.answers)
    for name, state, facts in status(further):
        if name != DRIVER:
            yield round_name(number, name), state, facts


def _told(run: Run, artifact: Artifact) -> tuple[str, dict[str, Any]]:
    try:
        return _state(run, artifact)
    except UserError as error:  # the others may be whole: this is the command for broken runs
        return DAMAGED, {"problem": str(error)}


def _state(run: Run, artifact: Artifact) -> tuple[str, dict[str, Any]]:
    if artifact.done():
        manifest = artifact.manifest()
        return "done", {**manifest["counts"], "seconds": manifest["seconds"]}
    return ("begun", _so_far(run, artifact)) if (artifact.place / INPUTS).exists() else ("-", {})


def all_done(rows: list[State]) -> bool:
    """Returns whether every folder and the report are done."""
    return all(state == "done" for name, state, _ in rows if name != DRIVER)


def _driver(run: Run) -> Iterator[State]:
    try:
        record, heard = holder(run.place), (run.place / LOCK).age()
    except FileNotFoundError:  # it has ended meanwhile
        return
    if record is not None:
        facts = {"doing": record.doing, "host": record.host, "pid": record.pid, "heard_s": round(max(0.0, heard), 1)}
        yield DRIVER, "gone" if record.gone else "silent" if heard > SILENT_SECONDS else "at work", facts


def _so_far(run: Run, artifact: Artifact) -> dict[str, Any]:
    """What an unfinished stage leaves piece by piece."""
    place = artifact.place
    match artifact.name:
        case "realign":
            last: dict[str, Any] = next(reversed(training_figures(run)), {})
            measured = len(validations_place(run).files(".json"))
            return {"step": last.get("step", 0), "steps": last.get("steps", "?")} | (
                {"candidates measured": measured} if measured else {}
            )
        case "triaged":
            judged, decided = (len((place / WORK / step).files(".json")) for step in ("judge", "decide"))
            return {"blocks judged": judged, "decided": decided}
        case "impact":
            return {"shards scored": len((place / SCORES).files(".json"))}
        case "evaluation":
            answered, judged = (len((place / folder).files(".parquet")) for folder in (GENERATED, RESPONSES))
            return {"chunks answered": answered, "judged": judged}
        case "answers":
            return {"pieces answered": len((place / GENERATED).files(".parquet"))}
        case "rejects" | "scored":
            return {"parts": len(artifact.parts())}
    return {}
