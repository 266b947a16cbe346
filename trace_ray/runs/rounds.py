"""The rounds of a run: the run itself is the first, each further one is a run below RUN/rounds/."""

from __future__ import annotations

import json
from typing import Any

from trace_ray.config.sources import parse
from trace_ray.runs.artifacts import CONFIG, EVALUATION_METRICS, Run, read_json
from trace_ray.storage.location import Location

ROUNDS = "rounds"
ENDED = "ended.json"
"""In a round's folder: why neither it nor any after it has anything left to train on."""


def round_run(run: Run, number: int) -> Run:
    """Returns a round's run.

    >>> from trace_ray.config import StorageConfig
    >>> from trace_ray.storage.location import locate
    >>> run = Run(locate("/runs/one", StorageConfig()))
    >>> [round_run(run, number).place.path for number in (1, 3)]
    ['/runs/one', '/runs/one/rounds/3']
    """
    return run if number == 1 else Run(run.place / ROUNDS / str(number))


def first_round(further: Run) -> Run:
    """Returns the run that a further round belongs to.

    >>> from trace_ray.config import StorageConfig
    >>> from trace_ray.storage.location import locate
    >>> first_round(Run(locate("/runs/one/rounds/3", StorageConfig()))).place.path
    '/runs/one'
    """
    above, rounds, number = further.place.path.rstrip("/").rsplit("/", 2)
    if rounds != ROUNDS or not number.isdigit():
        raise ValueError(f"{further.place.uri} is no further round's folder")
    return Run(Location(further.place.fs, above))


def asked_rounds(run: Run) -> int:
    """Returns how many rounds the run's configuration asks for; 1 where it keeps none that can be read."""
    try:
        config = parse((run.place / CONFIG).read_text())
        return int(config["rounds"]["number"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 1


def end_rounds(further: Run, reason: str) -> None:
    """Notes that a round found nothing to train on."""
    (further.place / ENDED).write_text(json.dumps({"reason": reason}))


def go_on(further: Run) -> None:
    """Forgets what ``end_rounds`` noted: the round is tried again."""
    place = further.place / ENDED
    if place.exists():
        place.fs.delete_file(place.path)


def ended(further: Run) -> str:
    """Returns why a round found nothing to train on; empty where it did, or has not looked."""
    place = further.place / ENDED
    return str(read_json(place)["reason"]) if place.exists() else ""


def rounds_summary(run: Run) -> list[dict[str, Any]]:
    """Returns {round, run, tpa} of what is measured, of the model before the first round as round 0; empty of a run alone.

    ``tpa``: percent of the answers to all held-out prompts; of a round with nothing to train on ``ended`` says why instead.
    """
    found: list[dict[str, Any]] = []
    for number in range(1, asked_rounds(run) + 1) if asked_rounds(run) > 1 else ():
        one = round_run(run, number)
        if reason := ended(one):
            return [*found, {"round": number, "run": one.place.uri, "ended": reason}]
        if not one.evaluation.done():
            return found
        tpa = read_json(one.evaluation.place / EVALUATION_METRICS)["tpa"]
        found += [{"round": 0, "run": one.place.uri, "tpa": tpa["base"]["all"]}] if number == 1 else []
        found.append({"round": number, "run": one.place.uri, "tpa": tpa["realigned"]["all"]})
    return found
