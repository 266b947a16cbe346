"""What each training worker does: DeepSpeed steps over the plan, checkpoints, metrics."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from trace_ray import environment, metrics
from trace_ray.artifacts import Run
from trace_ray.config import Config, RealignConfig
from trace_ray.pairs import TRAINED

METRICS = "metrics.jsonl"
_WRITE_SECONDS = 5.0


def train_worker(payload: dict[str, Any]) -> None:
    """Runs on every worker of Ray Train; ``payload`` holds run and config."""
    config: Config = payload["config"]
    _prepare(config)
    import ray.train
    import torch

    context = ray.train.get_context()
    trainer = Trainer(payload["run"], config, context.get_world_rank(), context.get_world_size())
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            trainer.restore(Path(folder))
        metrics.count("retries", 1 if context.get_world_rank() == 0 else 0, kind="training")
    while trainer.step < trainer.plan.steps:
        trainer.train_step()
        if trainer.step % config.realign.checkpoint_steps == 0 or trainer.step == trainer.plan.steps:
            trainer.report()
    torch.distributed.barrier()


def _prepare(config: Config) -> None:
    environment.prepare()
    if not config.realign.use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import logging

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import torch

    if not config.realign.use_gpu:
        torch.set_num_threads(max(1, int(config.realign.num_cpus)))


class Trainer:
    """One worker's model, data and place in the plan."""

    def __init__(self, run: Run, config: Config, rank: int, workers: int) -> None:
        import deepspeed

        from trace_ray.models import load_adapter, load_model
        from trace_ray.realign.data import TrainingRows
        from trace_ray.realign.objective import denominators
        from trace_ray.realign.order import Plan
        from trace_ray.realign.policy_module import HybridPolicy
        from trace_ray.realign.zero import deepspeed_config
        from trace_ray.storage import download_folder

        realign = config.realign
        self.run, self.config, self.rank, self.workers = run, config, rank, workers
        self.rows = TrainingRows(run.scored)
        batch = {"micro_batch": realign.micro_batch, "accumulation": realign.accumulation, "workers": workers}
        self.plan = Plan(category=self.rows.category, seed=realign.seed, epochs=realign.epochs, **batch)
        alpha_kl = config.objective.alpha_kl
        self.denominators = denominators(self.rows.counts, self.rows.conflicts, self.plan.step_samples, alpha_kl)
        with download_folder(run.impact.place / "adapter_init") as folder:
            self.policy = load_adapter(load_model(config.model), folder, trainable=True)
        trainable = [p for p in self.policy.parameters() if p.requires_grad]
        optimizer, schedule = make_optimizer(trainable, realign, self.plan.steps)
        self.engine, *_ = deepspeed.initialize(
            model=HybridPolicy(self.policy),
            model_parameters=trainable,
            optimizer=optimizer,
            lr_scheduler=schedule,
            config=deepspeed_config(realign, config.model.dtype),
        )
        self.engine.train()
        self.step = 0
        self.metrics: list[dict[str, Any]] = []
        self.written = 0.0

    def restore(self, folder: Path) -> None:
        from trace_ray.realign.checkpoint import load_checkpoint

        cursor = load_checkpoint(self.engine, folder)
        self.step, self.metrics = cursor["step"], cursor["metrics"]

    def train_step(self) -> None:
        """One optimizer step: ``accumulation`` micro-batches on each worker."""
        import torch

        started = time.monotonic()
        seen = torch.zeros(len(TRAINED), 4, dtype=torch.float64)
        tokens = 0
        for micro_step in range(self.plan.accumulation):
            torch.manual_seed(hash((self.config.realign.seed, self.step, micro_step, self.rank)) & 0x7FFFFFFF)
            tokens += self._micro_step(micro_step, seen)
        flat = torch.cat([seen.flatten(), torch.tensor([float(tokens)], dtype=torch.float64)])
        torch.distributed.all_reduce(flat)
        self.step += 1
        self._record(flat[:-1].view_as(seen), int(flat[-1]), time.monotonic() - started)

    def _micro_step(self, micro_step: int, seen: Any) -> int:
        from trace_ray.realign.objective import micro_batch, pair_losses, reduce_losses
        from trace_ray.realign.policy_module import kl_tokens

        rows = self.rows.take(self.plan.micro(self.step, micro_step, self.rank))
        batch = micro_batch(rows, self.config.objective)
        device = self.engine.device
        policy, reference = batch.policy.to(device), batch.reference.to(device)
        logp_B, kl_B = self.engine(policy, reference, kl_tokens(batch.policy, batch.reference_sequence).to(device))
        losses = pair_losses(batch, logp_B, kl_B, self.config.objective)
        # DeepSpeed divides by micro-batches and averages over workers; the denominators are global already.
        loss = reduce_losses(losses, self.denominators) * self.plan.accumulation * self.workers
        self.engine.backward(loss + 0.0 * logp_B.sum())
        self.engine.step()
        for i, name in enumerate(TRAINED):
            at = [j for j, category in enumerate(losses.category) if category == name]
            if at:
                loss_at, weight_at = losses.loss_P[at].detach(), losses.weight_P[at]
                values = (len(at), loss_at.sum(), (loss_at * weight_at).sum(), losses.reward_P[at].sum())
                seen[i] += seen.new_tensor([float(value) for value in values])
        return int(batch.policy.attention_mask_BT.sum())

    def _record(self, seen: Any, tokens: int, seconds: float) -> None:
        figures: dict[str, Any] = {"step": self.step, "steps": self.plan.steps, "lr": self.engine.get_lr()[0]}
        norm = self.engine.get_global_grad_norm()
        figures["grad_norm"] = float(norm) if norm is not None else None
        for name, (count, loss, weighted, reward) in zip(TRAINED, seen.tolist(), strict=True):
            if count:
                figures |= {
                    f"{name}/pairs": int(count),
                    f"{name}/loss": loss / count,
                    f"{name}/weighted_loss": weighted / count,
                }
                figures[f"{name}/margin"] = reward / count
        figures |= {"tokens": tokens, "seconds": round(seconds, 4)}
        if not all(math.isfinite(v) for v in figures.values() if isinstance(v, float)):
            raise RuntimeError(f"step {self.step}: a figure is not finite: {figures}; lower realign.learning_rate")
        self.metrics.append(figures)
        if self.rank == 0:
            metrics.count("training_tokens", tokens)
            metrics.gauge("training_tokens_per_second", tokens / seconds)
            metrics.gauge("training_step", self.step)
        if self.rank == 0 and time.monotonic() - self.written > _WRITE_SECONDS:
            self._write_metrics()

    def _write_metrics(self) -> None:
        self.written = time.monotonic()
        (self.run.realign.place / METRICS).write_text("".join(json.dumps(row) + "\n" for row in self.metrics))

    def report(self) -> None:
        """Saves a checkpoint; every rank takes part."""
        import ray.train

        from trace_ray.realign.checkpoint import save_checkpoint

        with tempfile.TemporaryDirectory() as folder:
            cursor = {"step": self.step, "metrics": self.metrics}
            save_checkpoint(self.engine, self.policy, Path(folder), cursor, self.rank)
            if self.rank == 0:
                self._write_metrics()
            ray.train.report({"step": self.step}, checkpoint=ray.train.Checkpoint.from_directory(folder))


def make_optimizer(parameters: list[Any], realign: RealignConfig, steps: int) -> tuple[Any, Any]:
    """Returns AdamW and its schedule: linear warm-up, then cosine, linear or constant, over ``steps`` steps."""
    import torch

    optimizer = torch.optim.AdamW(parameters, lr=realign.learning_rate, weight_decay=realign.weight_decay)
    warmup = min(realign.warmup_steps, max(1, steps // 10)) if realign.warmup_steps else 0

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, steps - warmup)
        match realign.schedule:
            case "cosine":
                return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
            case "linear":
                return max(0.0, 1 - done)
        return 1.0

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
