"""What stage 4 measures of the models besides their answers, each in a task of its own: drift and capability."""

from __future__ import annotations

import heapq
from itertools import chain
from typing import Any

from trace_ray.cluster.tasks import groups
from trace_ray.config import Config, EvaluateConfig
from trace_ray.evaluate.drift_sum import DriftSum
from trace_ray.evaluate.models import measure_capability, measure_drift
from trace_ray.evaluate.prompt_files import Row
from trace_ray.evaluate.prompts import drift_draws, drift_rows
from trace_ray.pairs import MODELS, Split
from trace_ray.runs.artifacts import Run
from trace_ray.runtime.progress import Meter
from trace_ray.storage.traffic import Traffic, counted


def model_metrics(run: Run, config: Config, requests: Traffic) -> dict[str, Any]:
    """Returns ``drift`` and ``capability``, where asked for; ``requests`` gets those that drawing the drift's pairs took."""
    metrics: dict[str, Any] = {}
    if config.evaluate.drift_pairs:
        metrics["drift"] = _drift(run, config, requests)
    if config.evaluate.capability.tasks:
        metrics["capability"] = _capability(run, config)
    return metrics


def _drift(run: Run, config: Config, requests: Traffic) -> dict[str, Any]:
    """Returns the drift's figures, empty where the corpus has no RETAIN pair."""
    import ray

    rows = _drift_pairs(run, config.evaluate, requests)
    if not rows:
        return {}
    done = DriftSum()
    measured = ray.remote(num_returns="streaming", **_one_model(config.evaluate))(measure_drift)
    with Meter("evaluate: drift", len(rows), "pairs") as meter:
        for batch in measured.remote(run, config, rows):
            some = ray.get(batch)
            done += some
            meter.advance(some.pairs)
    held_out = sum(row["split"] == Split.TEST for row in rows)
    return done.figures() | {"pairs": len(rows), "held_out_pairs": held_out}


def _drift_pairs(run: Run, evaluate: EvaluateConfig, requests: Traffic) -> list[Row]:
    """Returns ``prompts.drift_pairs``: tasks draw from the parts in groups, one more reads the texts of those drawn."""
    import ray

    names, limit = run.triaged.manifest()["parts"], evaluate.drift_pairs
    options = {"num_cpus": 1, "label_selector": evaluate.label_selector or None}
    task = ray.remote(**options)(counted)
    told = ray.get([task.remote(drift_draws, run.triaged, some, limit) for some in groups(names)])
    drawn = heapq.nsmallest(limit, chain.from_iterable(draws for draws, _ in told))
    rows, asked = ray.get(task.remote(drift_rows, run.triaged, drawn))
    for step in (*(took for _, took in told), asked):
        requests.add("drift", step)
    return list(rows)


def _capability(run: Run, config: Config) -> dict[str, Any]:
    """Returns model -> the harness' figures, one model after the other."""
    import ray

    harness = ray.remote(**_one_model(config.evaluate))(measure_capability)
    figures: dict[str, Any] = {}
    with Meter("evaluate: capability", len(MODELS), "models") as meter:
        for model in MODELS:
            figures[model] = ray.get(harness.remote(run, config, model))
            meter.advance(1)
    return figures


def _one_model(evaluate: EvaluateConfig) -> dict[str, Any]:
    """Returns the options of a task that loads a model: its process ends with it, as its memory does."""
    placed = {"num_gpus": evaluate.gpus or None, "label_selector": evaluate.label_selector or None}
    return {"num_cpus": evaluate.num_cpus, **placed, "max_calls": 1}
