"""Stage 3 on Ray Train: DeepSpeed workers train the model, which is then exported."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pyarrow.compute as pc

from trace_ray.cluster.connection import ensure_ray
from trace_ray.config import Config, settings
from trace_ray.errors import UserError
from trace_ray.realign.checkpoints import CHECKPOINTS, drop_damaged, drop_strays
from trace_ray.realign.export_stage import publish_model, publish_training
from trace_ray.realign.generation import check_generation
from trace_ray.realign.interrupt import own_interrupt
from trace_ray.realign.reference import reference_place
from trace_ray.realign.trackers import check_trackers
from trace_ray.realign.worker import MISTAKE, train_worker
from trace_ray.runs.anew import begin
from trace_ray.runs.artifacts import Run
from trace_ray.runs.figures import training_figures
from trace_ray.runs.identity import model_identity
from trace_ray.runtime.progress import Meter, pause
from trace_ray.storage.staging import local_model

_POLL_SECONDS = 2.0


def realign_inputs(run: Run, config: Config) -> dict[str, Any]:
    """Returns everything that the trained weights depend on."""
    parts = (
        ("objective", config.objective),
        ("realign", config.realign),
        ("model", config.model),
        ("lora", config.lora),
    )
    merged: dict[str, Any] = {"scored": run.scored.manifest()["inputs_hash"]}
    merged["model files"] = model_identity(config.model.path, config.model.revision, config.storage)
    for name, node in parts:
        merged |= settings(node, name)
    return merged


def run_realign(run: Run, config: Config) -> None:
    """Writes realign/ (checkpoints, metrics) and model/ (adapter, merged)."""
    inputs = realign_inputs(run, config)
    started = time.monotonic()
    if not begin(run, "realign", inputs):
        return
    if not run.realign.done():
        trained = train(run, config).path.rstrip("/").rsplit("/", 1)[-1]
        publish_training(run, config, f"{CHECKPOINTS}/{trained}", time.monotonic() - started)
    publish_model(run, config, started)


def train(run: Run, config: Config) -> Any:
    """Trains, or goes on from the last checkpoint of an earlier process; returns the last checkpoint.

    Raises: UserError for a mistake that a worker met; it is not retried.
    """
    check_model(config)
    check_trackers(config.realign.trackers)
    ensure_ray(config.ray)
    mistake = run.realign.place / MISTAKE
    if mistake.exists():
        mistake.fs.delete_file(mistake.path)
    if config.realign.kl_reference == "top_k":
        _store_reference(run, config)
    drop_damaged(run)
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(run, stop), daemon=True)
    watcher.start()
    try:
        with own_interrupt():
            result = _trainer(run, config).fit()
            if result.error is not None and not mistake.exists():
                raise result.error
    finally:
        stop.set()
        watcher.join()
    if mistake.exists():
        raise UserError(*json.loads(mistake.read_text()))
    drop_strays(run, result)
    return result.checkpoint


def _trainer(run: Run, config: Config) -> Any:
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    realign, place = config.realign, run.realign.place
    elastic = 0 < realign.min_workers < realign.workers
    return TorchTrainer(
        train_worker,
        train_loop_config={"run": run, "config": config},
        torch_config=TorchConfig(backend="nccl" if realign.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=(realign.min_workers, realign.workers) if elastic else realign.workers,
            use_gpu=realign.use_gpu,
            resources_per_worker={"CPU": realign.num_cpus} | ({"GPU": 1} if realign.use_gpu else {}),
            label_selector=realign.label_selector or None,
        ),
        run_config=RunConfig(
            name=CHECKPOINTS,
            storage_path=place.path,
            storage_filesystem=place.fs,
            checkpoint_config=CheckpointConfig(num_to_keep=realign.keep_checkpoints),
            failure_config=FailureConfig(max_failures=realign.max_failures, max_preemption_failures=-1),
        ),
    )


def check_model(config: Config) -> None:
    """Raises UserError where there is no model, before any worker starts: one worker's failure would be retried."""
    from transformers import AutoConfig

    from trace_ray.model.loading import load_tokenizer

    load_tokenizer(config.model.path, config.model.revision, config.model.trusted)
    try:
        AutoConfig.from_pretrained(
            local_model(config.model.path), revision=config.model.revision, trust_remote_code=config.model.trusted
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError("model.path", config.model.path, f"no model configuration there: {reason}") from None
    check_generation(config.model)


def _watch(run: Run, stop: threading.Event) -> None:
    """Shows the steps that the workers have written; the controller tells the driver nothing before the end."""
    with Meter("realign", 0, "steps") as meter:
        before = _written(run)
        meter.skip(before[-1]["step"] if before else 0)
        took = 0.0
        while not stop.wait(pause(_POLL_SECONDS, took)):
            started = time.monotonic()
            rows = _written(run)
            took = time.monotonic() - started
            if rows:
                meter.total = rows[-1]["steps"]
                meter.advance(rows[-1]["step"] - meter.done, live_note(rows[-1]))


def _written(run: Run) -> list[dict[str, Any]]:
    """The figures so far; none where an earlier process left them damaged: the workers write them whole again."""
    try:
        return training_figures(run)
    except UserError:
        return []


def live_note(row: dict[str, Any]) -> str:
    """Returns one step's figures in a few words.

    >>> live_note({"step": 3, "INVERT/loss": 0.5, "grad_norm": 1.25, "tokens_per_s": 80.4})
    'INVERT 0.500, norm 1.25, 80 tokens/s'
    """
    losses = [f"{name.removesuffix('/loss')} {value:.3f}" for name, value in row.items() if name.endswith("/loss")]
    return ", ".join([*losses, f"norm {row['grad_norm']:.2f}", f"{row['tokens_per_s']:.0f} tokens/s"])


def _store_reference(run: Run, config: Config) -> None:
    """Stores the reference's distributions of the anchored responses, one task a part of scored/."""
    import ray

    term = config.objective.RETAIN
    names = run.scored.manifest()["parts"] if term.loss == "kl" else []
    realign = config.realign
    options = {"num_cpus": realign.num_cpus, "num_gpus": 1 if realign.use_gpu else None}
    task = ray.remote(label_selector=realign.label_selector or None, **options)(_store_part)
    finished = {part.name for part in reference_place(run).files(".parquet")}
    ray.get([task.remote(run, config, name, term.prefer) for name in names if name not in finished])


def _store_part(run: Run, config: Config, name: str, response: str) -> None:
    import torch

    from trace_ray.model.loading import load_model
    from trace_ray.realign.reference import top_k_table

    torch.set_num_threads(max(1, int(config.realign.num_cpus)))
    device = "cuda" if config.realign.use_gpu else "cpu"
    columns = ["pair_id", "category", "prompt_ids", f"{response}_ids"]
    table = (run.scored.place / name).read_parquet(columns)
    rows = table.filter(pc.equal(table["category"], "RETAIN")).to_pylist()
    model = load_model(config.model).to(device)
    made = top_k_table(model, rows, response, config.realign.top_k, config.realign.micro_tokens)
    (reference_place(run) / name).write_parquet(made)
