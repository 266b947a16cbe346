"""The function that Ray Train runs on every worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trace_ray.config import Config, RealignConfig
from trace_ray.errors import CardMemoryError, UserError
from trace_ray.realign.setup import prepare_process
from trace_ray.runs.artifacts import Run
from trace_ray.runtime import metrics
from trace_ray.storage import traffic

MISTAKE = "mistake.json"
"""A user's mistake met by a worker: raised by the driver, since Ray Train would retry it like a death."""
REQUESTS = "requests"
"""A folder with each worker's requests to object stores, a file a rank, written when it has trained."""


def train_worker(payload: dict[str, Any]) -> None:
    """Trains from the latest checkpoint on; ``payload`` holds run and config."""
    run, config = payload["run"], payload["config"]
    told = run.realign.place / MISTAKE
    if told.exists():  # one worker was alone in meeting it; the others had to be ended, and Ray Train began anew
        return
    prepare_process(config.realign)
    import ray.train

    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    try:
        _train(_make_trainer(run, config, rank, workers), config.realign)
        if asked := traffic.take():
            (run.realign.place / REQUESTS / f"{rank}.json").write_text(json.dumps(asked))
    except UserError as mistake:  # all workers meet the same one, but for a full card
        alone = isinstance(mistake, CardMemoryError)
        if rank == 0 or alone:
            told.write_text(json.dumps([mistake.where, str(mistake.seen), mistake.remedy]))
        if alone and workers > 1:
            raise  # the others wait for this one


def _make_trainer(run: Run, config: Config, rank: int, workers: int) -> Any:
    import ray.train

    from trace_ray.realign.loop import Trainer

    trainer = Trainer(run, config, rank, workers)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            trainer.restore(Path(folder))
        metrics.count("retries", 1 if rank == 0 else 0, kind="training")
    return trainer


def _train(trainer: Any, realign: RealignConfig) -> None:
    """Runs the steps; a checkpoint every so many, and at once on notice that a node will be taken away."""
    import torch

    def on_step() -> None:
        trainer.tell()
        trainer.keep_candidate()  # before the checkpoint, which then never lies beyond a candidate that is not there
        if trainer.flagged:
            trainer.hear_stop()
        if trainer.flagged and _preempted(trainer):
            trainer.save(wait=True)
        elif trainer.step % realign.checkpoint_steps == 0 and not trainer.over:
            trainer.save(wait=not realign.async_checkpoints)

    trainer.run(on_step)
    trainer.save(wait=True)
    torch.distributed.barrier()


def _preempted(trainer: Any) -> bool:
    """Whether a node's end was announced that no checkpoint was made for yet. A collective call."""
    import ray.train

    info = ray.train.get_preemption_info()
    return bool(trainer.noticed(info.preempted_node_ids if info is not None else []))
