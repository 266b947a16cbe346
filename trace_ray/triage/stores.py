"""Where the verdicts of a triage are kept across runs: one folder for all that a judge's verdict depends on."""

from __future__ import annotations

import hashlib
import json
import os

from trace_ray.config import Config, JudgeConfig
from trace_ray.errors import UserError
from trace_ray.judges.backends import judge_fingerprint, names_clauses
from trace_ray.judges.frames import Frames
from trace_ray.model.loading import load_tokenizer
from trace_ray.runs.identity import commit_of, model_identity
from trace_ray.storage.location import Location, locate
from trace_ray.triage.block import OTHERS


def verdict_stores(config: Config) -> dict[str, Location]:
    """Returns {``judge`` | ``second`` | ``third``: its folder of ``triage.verdict_store``}, empty without one.

    Raises: UserError for a hub's model whose revision cannot be told from a later one of the same name.
    """
    triage = config.triage
    if not triage.verdict_store:
        return {}
    place = locate(triage.verdict_store, config.storage)
    cascade = {"triage.judge": triage.judge, "triage.first_judge": triage.first_judge}
    models = [
        _reads(config, name, judge) for name, judge in cascade.items() if judge is not None and judge.backend == "vllm"
    ]
    stores = {"judge": place / judge_fingerprint(config.policy, triage, triage.judge, ",".join(models))}
    for name in OTHERS:
        other: JudgeConfig | None = getattr(triage, f"{name}_judge")
        if other is not None:
            model = _reads(config, f"triage.{name}_judge", other) if other.backend == "vllm" else ""
            stores[name] = place / judge_fingerprint(config.policy, triage, other, model)
    return stores


def _reads(config: Config, where: str, judge: JudgeConfig) -> str:
    """What of a model its verdicts depend on: its files, and the tokens that it reads around the judged text."""
    revision = judge.revision
    if not judge.model.startswith("s3://") and not os.path.isdir(judge.model):
        known = commit_of(judge.model, revision)
        if known is None:
            remedy = "the hub does not tell its commit, so verdicts cannot be kept by it: name the commit"
            raise UserError(f"{where}.revision", revision, remedy)
        revision = known
    tokenizer = load_tokenizer(judge.model, revision, judge.trusted, f"{where}.model")
    other = where in (f"triage.{name}_judge" for name in OTHERS)
    by_clause = judge.verdict_by == "clauses" or (not other and names_clauses(config.triage))
    frames = Frames(tokenizer, config.policy, judge, where, by_clause).asked()
    read = hashlib.sha256(json.dumps([frame.pieces for frame in frames]).encode()).hexdigest()[:16]
    return f"{model_identity(judge.model, revision, config.storage)} {read}"
