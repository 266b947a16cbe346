"""What stage 4 measures of the models besides their answers: drift by actors, capability by a task a model."""

from __future__ import annotations

import heapq
from itertools import chain
from typing import Any

from trace_ray.cluster.actor_pool import ActorPool
from trace_ray.cluster.tasks import groups
from trace_ray.config import Config, EvaluateConfig
from trace_ray.evaluate.drift_sum import DriftSum
from trace_ray.evaluate.models import measure_capability, measure_drift
from trace_ray.evaluate.prompt_files import Row
from trace_ray.evaluate.prompts import drift_draws, drift_rows
from trace_ray.model.kept import model_facts
from trace_ray.pairs import MODELS, Split
from trace_ray.runs.artifacts import Run
from trace_ray.runtime.progress import Meter
from trace_ray.storage.traffic import Traffic, counted

_CALL_PAIRS, _ACTOR_PAIRS = 64, 256
"""Pairs that an actor measures at once, and that a lost one's successor does again; pairs for which one more actor is worth
the models that it loads."""


def model_metrics(run: Run, config: Config, requests: Traffic) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns ``drift`` and ``capability``, where asked for, and what the manifest is told of how they were measured.

    Args:
        requests: gets those that drawing the drift's pairs took.
    """
    metrics, told = dict[str, Any](), dict[str, Any]()
    if config.evaluate.drift_pairs:
        metrics["drift"], told["drift"] = _drift(run, config, requests)
    if config.evaluate.capability.tasks:
        metrics["capability"] = _capability(run, config)
    return metrics, told


def _drift(run: Run, config: Config, requests: Traffic) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the drift's figures, and how often models were loaded for them and how they ran; of no RETAIN pair nothing."""
    rows = _drift_pairs(run, config.evaluate, requests)
    if not rows:
        return {}, {}
    calls = [(at, (run, config, rows[at : at + _CALL_PAIRS])) for at in range(0, len(rows), _CALL_PAIRS)]
    found: dict[int, DriftSum] = {}
    with (
        drift_pool(config.evaluate, most=-(-len(rows) // _ACTOR_PAIRS)) as pool,
        Meter("evaluate: drift", len(rows), "pairs") as meter,
    ):
        for at, some in pool.each(measure_drift, calls):
            found[at] = some
            meter.advance(some.pairs)
    done = sum((found[at] for at in sorted(found)), DriftSum())  # in this order whoever was first: the same bits
    held_out = sum(row["split"] == Split.TEST for row in rows)
    figures = done.figures() | {"pairs": len(rows), "held_out_pairs": held_out}
    return figures, {"model_loads": pool.loads, "run_as": pool.run_as}


def drift_pool(evaluate: EvaluateConfig, most: int) -> ActorPool:
    """Returns the actors that measure drift: each loads its models once, and lets go of them and its GPU with its last call.

    On one card, whatever the engine that answers spreads over.
    """
    return ActorPool(evaluate.num_cpus, min(1.0, evaluate.gpus), evaluate.label_selector, most=most, facts=model_facts)


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
