"""Stage 3 on Ray Train: DeepSpeed workers train the adapter, then one task exports the model."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

from trace_ray.artifacts import Run
from trace_ray.cluster import ensure_ray
from trace_ray.config import Config, settings
from trace_ray.progress import Meter
from trace_ray.realign.loop import METRICS, train_worker

CHECKPOINTS = "checkpoints"
_POLL_SECONDS = 2.0


def realign_inputs(run: Run, config: Config) -> dict[str, Any]:
    """Returns everything that the trained weights depend on."""
    parts = (("objective", config.objective), ("realign", config.realign), ("model", config.model))
    merged: dict[str, Any] = {"scored": run.scored.manifest()["inputs_hash"]}
    for name, node in parts:
        merged |= settings(node, name)
    return merged


def run_realign(run: Run, config: Config) -> None:
    """Writes realign/ (checkpoints, metrics) and model/ (adapter, merged)."""
    inputs = realign_inputs(run, config)
    started = time.monotonic()
    if not any([run.realign.begin(inputs), run.model.begin(inputs)]):
        return
    ensure_ray(config.ray)
    checkpoint = _train(run, config)
    metrics = [json.loads(line) for line in (run.realign.place / METRICS).read_text().splitlines()]
    tokens = sum(row["tokens"] for row in metrics)
    facts = {"base model": config.model.path, "method": config.objective.method}
    run.realign.publish(counts={"steps": len(metrics)}, seconds=time.monotonic() - started, tokens=tokens, **facts)
    difference = _export(run, config, checkpoint)
    seconds = time.monotonic() - started
    run.model.publish(counts={}, seconds=seconds, merged_difference=difference, **facts)


def _train(run: Run, config: Config) -> Any:
    """Trains, or goes on from the last checkpoint of an earlier process; returns the last checkpoint."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    realign, place = config.realign, run.realign.place
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"run": run, "config": config},
        torch_config=TorchConfig(backend="nccl" if realign.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=realign.workers, use_gpu=realign.use_gpu, resources_per_worker={"CPU": realign.num_cpus}
        ),
        run_config=RunConfig(
            name=CHECKPOINTS,
            storage_path=place.path,
            storage_filesystem=place.fs,
            checkpoint_config=CheckpointConfig(num_to_keep=realign.keep_checkpoints),
            failure_config=FailureConfig(max_failures=realign.max_failures),
        ),
    )
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(run, stop), daemon=True)
    watcher.start()
    try:
        result = trainer.fit()
    finally:
        stop.set()
        watcher.join()
    if result.error is not None:
        raise result.error
    return result.checkpoint


def _watch(run: Run, stop: threading.Event) -> None:
    """Shows the steps that the workers have written; the controller tells the driver nothing before the end."""
    metrics = run.realign.place / METRICS
    with Meter("realign", 0, "steps") as meter:
        while not stop.wait(_POLL_SECONDS):
            rows = metrics.read_text().splitlines() if metrics.exists() else []
            if rows:
                last = json.loads(rows[-1])
                if not meter.total:
                    meter.total = last["steps"]
                    meter.skip(last["step"])
                meter.advance(last["step"] - meter.done)


def _export(run: Run, config: Config, checkpoint: Any) -> float:
    import ray

    triaged, scored = run.triaged.manifest(), run.scored.manifest()
    policy = triaged["policy"]
    card = {
        "base model": config.model.path,
        "method": config.objective.method,
        "policy": f"{policy['name']} version {policy['version']} ({policy['hash']})",
        "pairs": triaged["inputs_hash"],
        "trained rows": json.dumps(scored["counts"]),
    }
    options = {"num_cpus": config.realign.num_cpus, "max_retries": config.realign.max_failures}
    return float(ray.get(ray.remote(**options)(_export_task).remote(run, config, checkpoint, card)))


def _export_task(run: Run, config: Config, checkpoint: Any, card: dict[str, Any]) -> float:
    from trace_ray.realign.export import export_model

    with checkpoint.as_directory() as folder:
        return export_model(run, config, f"{folder}/adapter", card)
