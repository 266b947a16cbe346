"""What one candidate's files say of it, and which of its pieces are still to be made. No Ray here.

RUN/realign/selection/ holds, beside the candidates: generated/ and responses/, their answers, then judged, as parts that are
named by step and chunk; drift/, a JSON file a step; validations/, what all of it comes to.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from trace_ray.evaluate.answering import Chunk, chunks, tokens_of
from trace_ray.evaluate.tpa import compliance, percent
from trace_ray.realign.candidates import candidate_name, candidates, selection_place
from trace_ray.runs.artifacts import GENERATED, RESPONSES, Run
from trace_ray.runs.validations import Validation, validations, write_validation
from trace_ray.storage.location import Location

DRIFT = "drift"
Row = dict[str, Any]


def waiting(run: Run) -> list[int]:
    """Returns the steps of candidates that are whole and not measured yet, in order.

    What was measured of another adapter than the one that is there, as a run folder that was copied together may hold, is
    deleted.
    """
    known = {validation.step: validation.adapter for validation in validations(run)}
    whole = candidates(run)
    for step, adapter in whole.items():
        if step in known and known[step] != adapter:
            forget(run, step)
            known.pop(step)
    return [step for step in sorted(whole) if step not in known]


def forget(run: Run, step: int) -> None:
    """Deletes all that was measured of a step's candidate, its figures first."""
    place, name = selection_place(run), candidate_name(step)
    for folder in ("validations", DRIFT, RESPONSES, GENERATED):
        for file in (place / folder).files():
            if name in file.name:
                file.fs.delete_file(file.path)


def answer_chunks(steps: Sequence[int], prompts: list[Row]) -> list[Chunk]:
    """Returns what is to be answered, step by step."""
    return chunks(RESPONSES, prompts, [candidate_name(step) for step in steps])


def unfinished(todo: Sequence[Chunk], place: Location) -> list[Chunk]:
    """Returns the chunks whose part is not in a folder yet."""
    finished = {part.name for part in place.files(".parquet")}
    return [chunk for chunk in todo if chunk.name not in finished]


def drift_file(run: Run, step: int) -> Location:
    return selection_place(run) / DRIFT / f"{candidate_name(step)}.json"


def judged_answers(run: Run, step: int) -> list[Row]:
    """Returns a candidate's answers with their verdicts."""
    return [row for part in _parts(run, RESPONSES, step) for row in part.read_parquet().to_pylist()]


def _parts(run: Run, folder: str, step: int) -> list[Location]:
    return [file for file in (selection_place(run) / folder).files(".parquet") if candidate_name(step) in file.name]


def publish(run: Run, step: int, prompts: int, seconds: float) -> Validation:
    """Writes a candidate's figures, made from its answers and its drift, and returns them.

    Args:
        prompts: asked; seconds: that measuring it took.
    Raises: RuntimeError where answers are missing.
    """
    rows = judged_answers(run, step)
    if len(rows) != prompts:
        raise RuntimeError(f"selection lost answers: {len(rows)} of {prompts} of step {step}")
    by_group = compliance(rows, "category")[candidate_name(step)]
    drift = json.loads(drift_file(run, step).read_text()) if step else {}
    validation = Validation(
        step=step,
        adapter=candidates(run)[step] if step else "",
        tpa={group: percent(values) for group, values in by_group.items()},
        prompts={group: len(values) for group, values in by_group.items()},
        drift=float(drift.get("kl_to_base", 0.0)),
        seconds=round(seconds, 2),
        tokens=tokens_of(_parts(run, GENERATED, step)) + tokens_of(_parts(run, RESPONSES, step)),
    )
    write_validation(run, candidate_name(step), validation)
    return validation
