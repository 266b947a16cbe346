"""How far a run is: its folders, and what its driver is at. Read from what is on disk, by anyone who can read the run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from trace_ray.artifacts import GENERATED, INPUTS, RESPONSES, SCORES, STAGES, TRAINING_METRICS, WORK, Artifact, Run
from trace_ray.run_lock import LOCK, holder

State = tuple[str, str, dict[str, Any]]
"""An artefact's name, ``done`` | ``begun`` | ``-``, and its counts; or DRIVER, ``at work`` | ``gone``, and what it is at."""

DRIVER = "driver"


def status(run: Run) -> Iterator[State]:
    """Yields the state of each folder of the run, of its report, and of the driver that holds it, if any does."""
    for stage in STAGES:
        for artifact in run.made_by(stage):
            if artifact.done():
                manifest = artifact.manifest()
                yield artifact.name, "done", {**manifest["counts"], "seconds": manifest["seconds"]}
            elif (artifact.place / INPUTS).exists():
                yield artifact.name, "begun", _so_far(artifact)
            else:
                yield artifact.name, "-", {}
    yield "report.html", "done" if run.report.exists() else "-", {}
    yield from _driver(run)


def all_done(rows: list[State]) -> bool:
    """Returns whether every folder and the report are done."""
    return all(state == "done" for name, state, _ in rows if name != DRIVER)


def _driver(run: Run) -> Iterator[State]:
    """A driver that died on another machine looks as one at work does, but for how long ago it was heard."""
    try:
        record, heard = holder(run.place), (run.place / LOCK).age()
    except FileNotFoundError:  # it has ended meanwhile
        return
    if record is not None:
        facts = {"doing": record.doing, "host": record.host, "pid": record.pid, "heard_s": round(max(0.0, heard), 1)}
        yield DRIVER, "gone" if record.gone else "at work", facts


def _so_far(artifact: Artifact) -> dict[str, Any]:
    """What an unfinished stage leaves piece by piece."""
    place = artifact.place
    match artifact.name:
        case "realign":
            metrics = place / TRAINING_METRICS
            lines = metrics.read_text().split("\n")[:-1] if metrics.exists() else []
            last = json.loads(lines[-1]) if lines else {}
            return {"step": last.get("step", 0), "steps": last.get("steps", "?")}
        case "triaged":
            judged, decided = (len((place / WORK / step).files(".json")) for step in ("judge", "decide"))
            return {"blocks judged": judged, "decided": decided}
        case "impact":
            return {"shards scored": len((place / SCORES).files(".parquet"))}
        case "evaluation":
            answered, judged = (len((place / folder).files(".parquet")) for folder in (GENERATED, RESPONSES))
            return {"chunks answered": answered, "judged": judged}
        case "rejects" | "scored":
            return {"parts": len(artifact.parts())}
    return {}
