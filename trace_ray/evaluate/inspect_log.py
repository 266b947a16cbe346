"""Evaluated answers as a log of Inspect, for its viewer and data frames: one JSON log a model, a sample a held-out prompt.

Source: the log format of Inspect (inspect.aisi.org.uk, "Log Files": EvalLog version 2); what it defaults is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trace_ray.config import Config
from trace_ray.errors import UserError
from trace_ray.evaluate.tpa import compliance
from trace_ray.pairs import MODELS
from trace_ray.runs.artifacts import RESPONSES, Run
from trace_ray.storage.jsonl import strict_json
from trace_ray.storage.location import Location

LOG_VERSION = 2
TASK = "policy_agreement"
SCORER = "complies"
"""Of a sample: C where the answer complies with the policy, I where it does not, or nobody could tell."""


def export_inspect_logs(run: Run, config: Config, out: Location) -> list[Location]:
    """Writes one log a model into the folder ``out``; returns the files.

    Raises: UserError where the run is not evaluated, or the folder holds files: Inspect shows all that lie in one.
    """
    manifest = run.evaluation.manifest()
    if out.entries():
        raise UserError(out.uri, "holds files already", "name another folder")
    parts = (run.evaluation.place / RESPONSES).files(".parquet")
    rows = [row for part in parts for row in part.read_parquet().to_pylist()]
    names = dict(zip(MODELS, (config.model.path, f"{run.place.name}/model/merged"), strict=True))
    begun = f"{manifest['finished'].removesuffix('Z')}+00:00"
    written = []
    for model, name in names.items():
        mine = [row for row in rows if row["model"] == model]
        log = inspect_log(mine, name, begun, {"policy": config.policy.name, "judge": manifest["judge"]})
        file = out / f"{begun.replace(':', '-')}_{TASK.replace('_', '-')}_{model}.json"  # as Inspect finds its logs
        file.write_text(strict_json(log, indent=1))
        written.append(file)
    return written


def inspect_log(rows: Sequence[Mapping[str, Any]], model: str, begun: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a log as JSON holds it.

    Args:
        rows: RESPONSE_SCHEMA's, of one model, not none; model: its name in the log.
        begun: time with its zone, as ISO 8601 has it; facts: of the whole evaluation.
    """
    ids = [row["pair_id"] for row in rows]
    identity = hashlib.sha256(strict_json([model, begun, ids]).encode()).hexdigest()[:22]
    (groups,) = compliance(rows, "category").values()
    metrics = {f"accuracy_{group}": sum(values) / len(values) for group, values in groups.items()}
    metrics["accuracy"] = metrics.pop("accuracy_all")
    dataset = {"name": "held-out prompts", "samples": len(rows), "sample_ids": ids, "shuffled": False}
    return {
        "version": LOG_VERSION,
        "status": "success",
        "eval": {
            "run_id": identity,
            "created": begun,
            "task": TASK,
            "task_id": identity,
            "task_version": 0,
            "task_args": {},
            "dataset": dataset,
            "model": model,
            "model_args": {},
            "config": {},
            "packages": {},
            "metadata": dict(facts),
        },
        "plan": {"name": "plan", "steps": [], "config": {}},
        "results": {
            "total_samples": len(rows),
            "completed_samples": len(rows),
            "scores": [{"name": SCORER, "scorer": SCORER, "params": {}, "metrics": _metrics(metrics.items())}],
        },
        "stats": {"started_at": begun, "completed_at": begun, "model_usage": {}},
        "samples": [_sample(row, model) for row in rows],
    }


def _metrics(values: Iterable[tuple[str, float]]) -> dict[str, Any]:
    return {name: {"name": name, "value": value, "params": {}} for name, value in sorted(values)}


def _sample(row: Mapping[str, Any], model: str) -> dict[str, Any]:
    answer = {"role": "assistant", "content": row["response"], "source": "generate", "model": model}
    score = {
        "value": "C" if row["compliant"] else "I",
        "answer": row["response"],
        "explanation": row["judge_error"] or f"P(violates) {row['p_violates']:.3g}",
        "metadata": {"p_violates": row["p_violates"]},
    }
    return {
        "id": row["pair_id"],
        "epoch": 1,
        "input": row["prompt"],
        "target": "",
        "messages": [{"role": "user", "content": row["prompt"], "source": "input"}, answer],
        "output": {"model": model, "choices": [{"message": answer, "stop_reason": "unknown"}]},
        "scores": {SCORER: score},
        "metadata": {"category": row["category"], "source": row["source"]},
        "store": {},
        "events": [],
        "model_usage": {},
        "attachments": {},
    }
