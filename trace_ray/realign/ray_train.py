"""Ray Train, and the ways round what it does not do: tell a mistake from a death, an interrupt, a damaged checkpoint."""

from __future__ import annotations

import json
from typing import Any

from trace_ray.config import Config
from trace_ray.errors import UserError
from trace_ray.realign.checkpoints import CHECKPOINTS, drop_damaged, drop_strays
from trace_ray.realign.interrupt import own_interrupt
from trace_ray.realign.worker import MISTAKE, train_worker
from trace_ray.runs.artifacts import Run


def fit(run: Run, config: Config) -> Any:
    """Runs the workers from the last whole checkpoint on, restarted where one dies; returns the last checkpoint.

    Raises: UserError for a mistake that a worker met: Ray Train would retry it, so the worker writes it down and ends.
    """
    mistake = run.realign.place / MISTAKE
    if mistake.exists():
        mistake.fs.delete_file(mistake.path)
    drop_damaged(run)
    with own_interrupt():
        result = make_trainer(run, config).fit()
        if result.error is not None and not mistake.exists():
            raise result.error
    if mistake.exists():
        raise UserError(*json.loads(mistake.read_text()))
    drop_strays(run, result)
    return result.checkpoint


def make_trainer(run: Run, config: Config) -> Any:
    """Returns Ray Train's trainer with the workers, resources and failures that the settings ask for."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    realign, place = config.realign, run.realign.place
    elastic = 0 < realign.min_workers < realign.workers
    return TorchTrainer(
        train_worker,
        train_loop_config={"run": run, "config": config},
        torch_config=TorchConfig(backend="nccl" if realign.on_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=(realign.min_workers, realign.workers) if elastic else realign.workers,
            use_gpu=realign.on_gpu,
            resources_per_worker={"CPU": realign.num_cpus} | ({"GPU": 1} if realign.on_gpu else {}),
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
