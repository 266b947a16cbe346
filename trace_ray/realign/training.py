"""Training itself: the plan's steps over any engine, their losses and figures. No Ray, no DeepSpeed, no files here."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from trace_ray.config import ObjectiveConfig, RealignConfig
from trace_ray.errors import CardMemoryError, UserError
from trace_ray.objective.batch import MicroBatch, micro_batch
from trace_ray.objective.dual import ALPHA, next_alpha
from trace_ray.objective.reduction import denominators, reduce_losses
from trace_ray.objective.terms import pair_losses
from trace_ray.realign.ahead import made_ahead
from trace_ray.realign.data import TrainingRows
from trace_ray.realign.engine import Engine
from trace_ray.realign.figures import StepSums, gpu_busy, named_figures, peak_memory_gib
from trace_ray.realign.layout import MicroStep, plan_step
from trace_ray.realign.order import Indices, StepPlan
from trace_ray.realign.row_index import NAMES
from trace_ray.realign.schedule import converged
from trace_ray.runs.alarms import sick


@dataclass(frozen=True)
class Part:
    """One micro-step of a step, ready to be run.

    Args:
        samples: of the whole step; number: of the micro-step in it; last: of the step.
        batch: where the policy stands.
    """

    samples: Indices
    number: int
    last: bool
    batch: MicroBatch


class Training:
    """A training and how far it has come, as one of its workers holds it.

    Args:
        rows: to train on; objective: the categories' terms; realign: order, length and layout of the run.
        make_engine: called with the steps of the run.
        rank, workers: this one of so many.

    ``run`` has the next micro-batch made and sent by a thread while one is run, where ``ahead``: on a GPU. On a CPU the thread
    would take the time that the step needs.
    """

    def __init__(
        self,
        rows: TrainingRows,
        objective: ObjectiveConfig,
        realign: RealignConfig,
        make_engine: Callable[[int], Engine],
        *,
        rank: int = 0,
        workers: int = 1,
    ) -> None:
        self.rows, self.objective, self.realign = rows, objective, realign
        self.rank, self.workers = rank, workers
        self.plan = step_plan(rows, realign)
        self.by = denominators(rows.counts, rows.weighed, realign.batch, objective, realign.shares)
        self.engine = make_engine(self.plan.steps)
        self.ahead = self.engine.device.type == "cuda"
        self._coming: Iterator[Part] | None = None
        self.step = 0
        self.metrics: list[dict[str, Any]] = []
        self.flagged = False

    @property
    def over(self) -> bool:
        """Whether the plan is done or the gradient has vanished, unless it has for a state that is no end (``runs.alarms``)."""
        norms = [row["grad_norm"] for row in self.metrics[-self.realign.epsilon_steps :]]
        vanished = converged(norms, self.realign.epsilon, self.realign.epsilon_steps)
        return self.step >= self.plan.steps or (vanished and not sick(self.metrics, self.objective, self.realign))

    @property
    def alpha_kl(self) -> float:
        """The anchors' weight in the step that is made next; it follows from the figures, which checkpoints hold."""
        objective = self.objective
        return next_alpha(self.metrics, objective.alpha_kl, objective.kl_target, objective.kl_step)

    def run(self, on_step: Callable[[], None]) -> None:
        """Makes the steps that are left; ``on_step`` is called after each, on all workers alike.

        Raises: CardMemoryError where a step does not fit the card: half of one would be another step.
        """
        with self._parts():
            while not self.over:
                try:
                    self.train_step()
                except torch.OutOfMemoryError:
                    remedy = "a step does not fit the card: give fewer, or realign.gradient_checkpointing=true"
                    raise CardMemoryError("realign.micro_tokens", self.realign.tokens, remedy) from None
                on_step()

    def raises_flag(self) -> bool:
        """Whether this worker raises its flag with the step: ``flagged`` is then true on all of them after it."""
        return False

    def train_step(self) -> None:
        """Makes one optimizer step and adds its figures to ``metrics``.

        Raises: UserError where a figure is not finite.
        """
        started = time.monotonic()
        sums = StepSums(self.engine.device)
        for part in self._coming or self.parts():
            # A worker's dropout depends on where a sample runs; without dropout nothing does.
            torch.manual_seed(hash((self.realign.seed, self.step, part.number, self.rank)) & 0x7FFFFFFF)
            self._micro_step(part, sums)
            if part.last:
                break
        rate, norm = self.engine.step()
        if self.rank == 0:
            sums.note_norm(norm)
        if self.raises_flag():
            sums.ask()
        summed = self.engine.summed(sums.tensor())
        self.step, self.flagged = self.step + 1, bool(summed[-1])
        self._record(summed, rate, part.samples, time.monotonic() - started)

    def layout(self, samples: Indices) -> list[MicroStep]:
        """Returns how a step's samples are run, by all workers."""
        return plan_step(
            [self.rows.lengths(i) for i in samples],
            [self.rows.anchored(i) for i in samples],
            [self.rows.shared(i) for i in samples],
            workers=self.workers,
            budget=self.realign.tokens,
            overhead=self.realign.forward_overhead,
            flat=self.rows.flat,
        )

    def batch(self, samples: Indices, micro_step: MicroStep) -> MicroBatch:
        """Returns what this worker runs of a step's micro-step."""
        mine = samples[micro_step.samples[self.rank]]
        return micro_batch(
            self.rows.take(mine),
            self.objective,
            micro_step.groups[self.rank],
            micro_step.anchored,
            shared=[self.rows.shared(i) for i in mine],
            flat=self.rows.flat,
            forward_reference=not self.realign.stores_reference,
        )

    def parts(self) -> Iterator[Part]:
        """Yields the micro-steps of the steps that are left, as this worker runs them."""
        for step in range(self.step, self.plan.steps):
            samples = self.plan.step(step)
            steps = self.layout(samples)
            for number, micro_step in enumerate(steps):
                batch = self.batch(samples, micro_step).to(self.engine.device)
                yield Part(samples, number, number == len(steps) - 1, batch)

    @contextmanager
    def _parts(self) -> Iterator[None]:
        """Has the parts made ahead meanwhile, where that is to be done."""
        if not self.ahead:
            yield
            return
        device = self.engine.device  # a thread begins on the first card
        on_card = partial(torch.cuda.set_device, device) if device.type == "cuda" else None
        with made_ahead(self.parts(), on_card) as coming:
            self._coming = coming
            try:
                yield
            finally:
                self._coming = None

    def _micro_step(self, part: Part, sums: StepSums) -> None:
        objective, batch = self.objective, part.batch
        logp_S, kl_S = self.engine(batch.groups)
        losses = pair_losses(batch, logp_S, kl_S, objective)
        loss = reduce_losses(losses, replace(self.by, alpha_kl=self.alpha_kl), objective.weighed)
        self.engine.backward(loss + 0.0 * (logp_S.sum() + kl_S.sum()), last=part.last)
        sums.add(batch, losses)

    def _record(self, summed: torch.Tensor, rate: float, samples: Indices, seconds: float) -> None:
        figures: dict[str, Any] = {"step": self.step, "steps": self.plan.steps, "lr": rate, **named_figures(summed)}
        figures |= {ALPHA: self.alpha_kl} if self.objective.kl_target else {}
        broken = [name for name, v in figures.items() if isinstance(v, float) and not math.isfinite(v)]
        if broken:
            found = f"{broken[0]} is not finite at step {self.step}"
            raise UserError("realign.learning_rate", self.realign.learning_rate, f"{found}; use a lower one")
        figures |= {"seconds": round(seconds, 4), "tokens_per_s": round(figures["tokens"] / max(1e-9, seconds), 1)}
        figures |= {"memory_gib": round(peak_memory_gib(gpu=self.realign.on_gpu), 3), "workers": self.workers}
        if self.realign.on_gpu and (busy := gpu_busy()) is not None:
            figures["gpu_busy"] = busy
        figures["samples"] = samples_digest(self.rows.pair_ids(samples))
        self.metrics.append(figures)


def step_plan(rows: TrainingRows, realign: RealignConfig) -> StepPlan:
    """Returns the run's steps, the same whatever the workers."""
    return StepPlan(
        category=rows.index.code,
        names=NAMES,
        tokens=rows.longest(),
        seed=realign.seed,
        epochs=realign.epochs,
        batch=realign.batch,
        max_steps=realign.max_steps,
        window=realign.length_window,
        shares=realign.shares,
    )


def samples_digest(pair_ids: list[str]) -> str:
    """Returns 16 hex digits of a step's pairs in order: two runs saw the same samples where these agree."""
    return hashlib.sha256(",".join(pair_ids).encode()).hexdigest()[:16]
