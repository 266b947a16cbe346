"""What each training worker does: DeepSpeed steps over the plan, checkpoints, metrics."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from trace_ray.config import Config
from trace_ray.errors import UserError
from trace_ray.objective.terms import denominators, micro_batch, pair_losses, reduce_losses
from trace_ray.realign.checkpoint import load_checkpoint, save_checkpoint
from trace_ray.realign.data import TrainingRows
from trace_ray.realign.dead import cause_of_death
from trace_ray.realign.figures import StepSums, named_figures, peak_memory_gib
from trace_ray.realign.order import StepPlan
from trace_ray.realign.packing import MicroStep, plan_step
from trace_ray.realign.reference import read_top_k
from trace_ray.realign.schedule import converged
from trace_ray.realign.setup import load_policy, make_engine, together
from trace_ray.realign.trackers import Tracker, make_trackers
from trace_ray.realign.weights import plain_grad_norm
from trace_ray.runs.artifacts import TRAINING_METRICS, Run
from trace_ray.runtime import metrics
from trace_ray.runtime.progress import pause

_WRITE_SECONDS = 5.0
_NOTICE_SECONDS = 2.0


def step_plan(rows: TrainingRows, config: Config) -> StepPlan:
    """Returns the run's steps, the same whatever the workers."""
    realign = config.realign
    return StepPlan(
        category=rows.category,
        tokens=rows.longest(),
        seed=realign.seed,
        epochs=realign.epochs,
        batch=realign.batch,
        max_steps=realign.max_steps,
        window=realign.length_window,
        shares=realign.shares,
    )


class Trainer:
    """One worker's model, data and place in the plan.

    Args:
        run: whose scored/ is trained on; config: all of it.
        rank, workers: of the process group, which is up.
    """

    def __init__(self, run: Run, config: Config, rank: int, workers: int) -> None:
        realign = config.realign
        self.run, self.config, self.rank, self.workers = run, config, rank, workers
        stored = read_top_k(run) if realign.kl_reference == "top_k" else None
        self.rows, (self.model, reference) = together(
            lambda: (TrainingRows(run.scored, config.objective, stored), load_policy(run, config))
        )
        self.plan = step_plan(self.rows, config)
        self.by = denominators(self.rows.counts, self.rows.weighed, realign.batch, config.objective, realign.shares)
        self.engine = make_engine(self.model, reference, config, self.plan.steps)
        self.step = 0
        self.saved = -1
        self.metrics: list[dict[str, Any]] = []
        self.trackers: list[Tracker] | None = None
        self._written = self._noticed = time.monotonic()
        self._pause = _WRITE_SECONDS
        self._logged = 0
        self._leaving: set[str] = set()

    def restore(self, folder: Path) -> None:
        """Goes on from a checkpoint of any number of workers."""
        cursor = load_checkpoint(self.engine, self.model, folder)
        self.step, self.metrics = cursor["step"], cursor["metrics"]
        self.saved, self._logged = self.step, len(self.metrics)

    @property
    def over(self) -> bool:
        """Whether the plan is done or the gradient has vanished."""
        realign = self.config.realign
        norms = [row["grad_norm"] for row in self.metrics[-realign.epsilon_steps :]]
        return self.step >= self.plan.steps or converged(norms, realign.epsilon, realign.epsilon_steps)

    def train_step(self) -> bool:
        """Makes one optimizer step; returns whether it is time, on all workers alike, to ask for preemption notices."""
        started = time.monotonic()
        samples = self.plan.step(self.step)
        sums = StepSums()
        steps = self.layout(samples)
        for number, micro_step in enumerate(steps):
            # A worker's dropout depends on where a sample runs; without dropout nothing does.
            torch.manual_seed(hash((self.config.realign.seed, self.step, number, self.rank)) & 0x7FFFFFFF)
            self.engine.set_gradient_accumulation_boundary(number == len(steps) - 1)
            self._micro_step(samples, micro_step, sums)
        norm, rate = plain_grad_norm(self.engine, self.model), self.engine.get_lr()[0]
        self.engine.step()  # which sets the next step's rate
        norm = self.engine.get_global_grad_norm() if norm is None else norm
        if time.monotonic() - self._noticed > _NOTICE_SECONDS:
            sums.counts[-1] = 1
        summed = sums.tensor().to(self.engine.device)
        torch.distributed.all_reduce(summed)
        self.step += 1
        self._record(summed.cpu(), {"lr": rate, "grad_norm": float(norm)}, samples, time.monotonic() - started)
        self._refuse_death()
        return bool(summed[-1])

    def layout(self, samples: Any) -> list[MicroStep]:
        """Returns how a step's samples are run, by all workers."""
        realign = self.config.realign
        return plan_step(
            [self.rows.lengths(i) for i in samples],
            [self.rows.anchored(i) for i in samples],
            workers=self.workers,
            budget=realign.micro_tokens,
            overhead=realign.forward_overhead,
        )

    def _micro_step(self, samples: Any, micro_step: MicroStep, sums: StepSums) -> None:
        objective, top_k = self.config.objective, self.config.realign.kl_reference == "top_k"
        rows = self.rows.take(samples[micro_step.samples[self.rank]])
        groups = micro_step.groups[self.rank]
        batch = micro_batch(rows, objective, groups, micro_step.anchored, forward_reference=not top_k)
        logp_S, kl_S = self.engine([group.to(self.engine.device) for group in batch.groups])
        losses = pair_losses(batch, logp_S, kl_S, objective)
        # DeepSpeed averages over workers; the denominators are global already.
        loss = reduce_losses(losses, self.by, objective.weighed) * self.workers
        self.engine.backward(loss + 0.0 * (logp_S.sum() + kl_S.sum()))
        sums.add(batch, losses)

    def _record(self, summed: torch.Tensor, optimizer: dict[str, float], samples: Any, seconds: float) -> None:
        figures: dict[str, Any] = {"step": self.step, "steps": self.plan.steps, **optimizer, **named_figures(summed)}
        broken = [name for name, v in figures.items() if isinstance(v, float) and not math.isfinite(v)]
        if broken:
            found = f"{broken[0]} is not finite at step {self.step}"
            raise UserError("realign.learning_rate", self.config.realign.learning_rate, f"{found}; use a lower one")
        figures |= {"seconds": round(seconds, 4), "tokens_per_s": round(figures["tokens"] / max(1e-9, seconds), 1)}
        figures |= {"memory_gib": round(peak_memory_gib(gpu=self.config.realign.use_gpu), 3), "workers": self.workers}
        figures["samples"] = samples_digest(self.rows.pair_ids(samples))
        self.metrics.append(figures)
        if self.rank == 0:
            metrics.count("training_tokens", figures["tokens"])
            metrics.gauge("training_tokens_per_second", figures["tokens_per_s"])
            metrics.gauge("training_step", self.step)
        if self.rank == 0 and time.monotonic() - self._written > self._pause:
            self.write_metrics()

    def _refuse_death(self) -> None:
        """Raises UserError, on all workers alike, where the last steps trained nothing."""
        realign = self.config.realign
        cause = cause_of_death(
            self.metrics,
            self.config.objective.weighed,
            realign.epsilon_steps,
            epsilon=realign.epsilon,
            max_grad_norm=realign.max_grad_norm,
            over=self.step == self.plan.steps,
        )
        if not cause:
            return
        if self.rank == 0:
            self.write_metrics()
        remedy = "use another rate, lower where the figures before had blown up; see realign/metrics.jsonl"
        found = f"{cause} for {realign.epsilon_steps} steps, up to step {self.step}: nothing is trained any more"
        raise UserError("realign.learning_rate", realign.learning_rate, f"{found}; {remedy}")

    def write_metrics(self) -> None:
        """Writes metrics.jsonl and tells the trackers what is new; rank 0 only.

        The file is written whole, or a reader might find half a line: the longer it is, the rarer.
        """
        started = time.monotonic()
        place = self.run.realign.place
        (place / TRAINING_METRICS).write_text("".join(json.dumps(row) + "\n" for row in self.metrics))
        if self.trackers is None:
            self.trackers = make_trackers(self.config.realign.trackers, place, self.run.place.uri, self._logged + 1)
        for row in self.metrics[self._logged :]:
            numbers = {
                k: float(v) for k, v in row.items() if isinstance(v, (int, float)) and k not in ("step", "steps")
            }
            for tracker in self.trackers:
                tracker.log(row["step"], numbers)
        for tracker in self.trackers:
            tracker.flush()
        self._logged = len(self.metrics)
        self._written = time.monotonic()
        self._pause = pause(_WRITE_SECONDS, self._written - started)

    def save(self, *, wait: bool) -> None:
        """Saves a checkpoint; every rank takes part.

        Args:
            wait: until it is stored; else training goes on meanwhile.
        """
        import ray.train
        from ray.train.v2.api.report_config import CheckpointUploadMode

        self._noticed = time.monotonic()
        if self.step == self.saved:
            return
        folder = tempfile.mkdtemp(prefix="trace-ray-checkpoint-")
        cursor = {"step": self.step, "metrics": self.metrics}
        save_checkpoint(self.engine, self.model, Path(folder), cursor, whole=self.config.realign.whole_checkpoints)
        if self.rank == 0:
            self.write_metrics()
        self.saved = self.step
        ray.train.report(
            {"step": self.step},
            checkpoint=ray.train.Checkpoint.from_directory(folder),
            checkpoint_upload_mode=CheckpointUploadMode.SYNC if wait else CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=True,
        )

    def noticed(self, nodes: list[str]) -> bool:
        """Notes which nodes are to be taken away; returns whether that is news."""
        self._noticed = time.monotonic()
        news = bool(set(nodes) - self._leaving)
        self._leaving |= set(nodes)
        return news


def samples_digest(pair_ids: list[str]) -> str:
    """Returns 16 hex digits of a step's pairs in order: two runs saw the same samples where these agree."""
    return hashlib.sha256(",".join(pair_ids).encode()).hexdigest()[:16]
