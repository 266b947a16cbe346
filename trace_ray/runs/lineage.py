"""Where a run's starting model comes from: an earlier run, the run before that, and so on back to a plain model."""

from __future__ import annotations

from typing import Any

from trace_ray.config import StorageConfig
from trace_ray.runs.artifacts import EVALUATION_METRICS, Run, read_json
from trace_ray.storage.location import locate

MERGED = "merged"
UNKNOWN_POLICY = {"name": "unknown: triaged/ is gone", "version": "", "hash": ""}
"""Of a run that was copied in part: its model is there all the same."""


def parent_run(model_path: str, storage: StorageConfig) -> Run | None:
    """Returns the run that wrote a model, for a ``model.path`` of RUN/model/merged; None for any other model."""
    trimmed = model_path.rstrip("/")
    folder, _, name = trimmed.rpartition("/")
    run_folder, _, model = folder.rpartition("/")
    if name != MERGED or model != "model" or not run_folder:
        return None
    run = Run(locate(run_folder, storage))
    return run if run.model.done() else None


def lineage(model_path: str, storage: StorageConfig) -> list[dict[str, Any]]:
    """Returns the steps before this run, first one first: run, its starting model, policy, method and model hash.

    A run's reference (of its KL, its scores and its ``base`` figures) is the model it starts from: the model of the last
    step here, not the first one's base.
    """
    steps: list[dict[str, Any]] = []
    path = model_path
    while (run := parent_run(path, storage)) is not None and run.place.uri not in {step["run"] for step in steps}:
        manifest = run.model.manifest()
        path = manifest["base model"]
        policy = run.triaged.manifest()["policy"] if run.triaged.done() else UNKNOWN_POLICY
        step = {"run": run.place.uri, "base_model": path, "policy": policy, "method": manifest["method"]}
        steps.append({**step, "model_inputs_hash": manifest["inputs_hash"], "tpa": _tpa(run)})
    return steps[::-1]


def _tpa(run: Run) -> dict[str, float] | None:
    metrics = run.evaluation.place / EVALUATION_METRICS
    if not run.evaluation.done():
        return None
    return {model: float(groups["all"]) for model, groups in read_json(metrics)["tpa"].items()}
