"""The end of stage 3: what was trained is published by the name of its checkpoint, and one task exports it from there."""

from __future__ import annotations

import json
import time
from typing import Any

from trace_ray.cluster.connection import ensure_ray
from trace_ray.config import Config
from trace_ray.config.gpus import of_stages
from trace_ray.errors import UserError
from trace_ray.model.kept import loads
from trace_ray.realign.card import card_facts
from trace_ray.realign.checkpoints import CHECKPOINTS, damage
from trace_ray.realign.reference import STORED
from trace_ray.realign.worker import REQUESTS
from trace_ray.runs.artifacts import Run
from trace_ray.runs.figures import training_figures
from trace_ray.storage import traffic
from trace_ray.storage.location import Location
from trace_ray.storage.traffic import Traffic

TRAINED = "checkpoint"
"""In realign/'s manifest: the trained checkpoint's folder, below realign/."""


def publish_training(run: Run, config: Config, trained: str, seconds: float, **facts: Any) -> None:
    """Publishes realign/.

    Args:
        trained: the last checkpoint's folder, below realign/.
    """
    metrics = training_figures(run)
    tokens = sum(row["tokens"] for row in metrics)
    facts |= {"base model": config.model.path, "method": config.objective.method, TRAINED: trained}
    facts |= {"gpus": of_stages(config, ["realign"]), "requests": _requests(run)}
    stored = run.realign.place / STORED
    if stored.exists():
        facts["reference"] = json.loads(stored.read_text())
    run.realign.publish(counts={"steps": len(metrics)}, seconds=seconds, tokens=tokens, **facts)


def _requests(run: Run) -> dict[str, dict[str, int]]:
    """Returns the requests of the workers that trained to the end, and of this process since it began the stage."""
    asked = Traffic()
    for told in (run.realign.place / REQUESTS).files(".json"):
        asked.add("train", json.loads(told.read_text()))
    asked.own("driver")
    return asked.told()


def run_export(run: Run, config: Config) -> None:
    """Writes model/ from a training that is done, and nothing where it was written already."""
    if run.model.begin(run.realign.manifest()["inputs"]):
        publish_model(run, config, time.monotonic())


def publish_model(run: Run, config: Config, started: float) -> None:
    """Exports the trained checkpoint to model/ and publishes it.

    Args:
        started: ``time.monotonic()`` when the stage began.
    Raises: UserError where the checkpoint is gone, or the merged model is not the trained one.
    """
    import ray
    from ray.train import Checkpoint

    trained = trained_place(run)
    ensure_ray(config.ray)
    kept = run.realign.manifest().get("selection", {}).get("step")  # None = the last step
    card = card_facts(run, config, training_figures(run)[:kept])
    realign = config.realign
    options = {"num_cpus": realign.num_cpus, "max_retries": realign.max_failures}
    task = ray.remote(label_selector=realign.label_selector or None, **options)(_export_task)
    found, asked = ray.get(task.remote(run, config, Checkpoint(trained.path, filesystem=trained.fs), card))
    facts = {"base model": config.model.path, "method": config.objective.method, **found}
    facts["requests"] = {"export": asked} if asked else {}
    run.model.publish(counts={}, seconds=time.monotonic() - started, **facts)


def trained_place(run: Run) -> Location:
    """Returns the trained checkpoint's folder. Raises UserError where nothing is trained, or the folder is gone."""
    place = run.realign.place
    name = run.realign.manifest().get(TRAINED)  # runs trained before it was kept have none
    if name is None:
        raise UserError(place.uri, "trained by an older trace-ray", f"delete {place.uri}/_DONE and run realign again")
    trained: Location = place / name
    lost = damage(trained) if name.startswith(CHECKPOINTS) else "" if trained.exists() else "no such folder"
    if lost:
        remedy = f"restore it, or delete {place.uri}/_DONE and run realign again: it goes on from a checkpoint before"
        raise UserError(trained.uri, lost, remedy)
    return trained


def _export_task(
    run: Run, config: Config, checkpoint: Any, card: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, int]]:
    """Exports; returns what the manifest is told, and the requests.

    No actor: nothing that is loaded here serves a second piece of work. The base is loaded once to be merged into, and what
    was written once more, to be compared with it: two loads, which the manifest has as ``model_loads``. It runs on CPU
    memory and asks for no GPU; Ray repeats the task of a lost worker as it would restart an actor.
    """
    from trace_ray.realign.export import export_model

    before = loads()  # Ray gives a process to one task after the other
    with checkpoint.as_directory() as folder:
        found = export_model(run, config, folder, card).facts()
    return {**found, "model_loads": loads() - before}, traffic.take()
