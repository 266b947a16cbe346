"""The evaluation's answers as pairs to label: the base's as the chosen one, the realigned model's as the rejected one."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator
from typing import Any

from trace_ray.judges.labels import answers_id
from trace_ray.pairs import MODELS, hash_fraction
from trace_ray.runs.artifacts import RESPONSES, Run
from trace_ray.triage.labelling.sample import Candidate

_COLUMNS = ["pair_id", "prompt", "model", "response", "p_violates"]


def of_answers(run: Run, number: int, seed: int) -> list[Candidate]:
    """Returns up to ``number`` prompts' answers, drawn at random alone.

    How often the judge errs on the answers is what agreement is corrected by: a sample that prefers doubtful ones would say
    that it errs more often than it does.
    """
    return heapq.nsmallest(number, _answers(run, seed), key=lambda candidate: (candidate.chance, candidate.pair_id))


def answers_named(run: Run, ids: Collection[str]) -> list[Candidate]:
    """Returns the answers that labels name by their ids; none of a run that has not been evaluated."""
    wanted = set(ids)
    return [pair for pair in _answers(run, 0) if pair.pair_id in wanted] if run.evaluation.done() else []


def _answers(run: Run, seed: int) -> Iterator[Candidate]:
    """Yields each prompt's two answers. Raises UserError where the evaluation has not finished."""
    run.evaluation.manifest()
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for part in (run.evaluation.place / RESPONSES).files(".parquet"):
        for row in part.read_parquet(_COLUMNS).to_pylist():
            found.setdefault((row["pair_id"], row["prompt"]), {})[row["model"]] = row
    for (_, prompt), models in found.items():
        base, realigned = (models[name] for name in MODELS)
        texts = prompt, base["response"], realigned["response"]
        pair = answers_id(*texts)
        (chance,) = hash_fraction([pair], seed, "label")
        yield Candidate(pair, *texts, (), 0.0, chance, (base["p_violates"], realigned["p_violates"]))
