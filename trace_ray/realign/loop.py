"""A training worker's side of training: where it starts, checkpoints, metrics on disk, and a death that is refused."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from trace_ray.config import Config
from trace_ray.errors import UserError
from trace_ray.model.flat import runs_flat
from trace_ray.model.fused import how_run
from trace_ray.model.sharing import sharing_rule
from trace_ray.realign.budget import refuse_longer, step_tokens
from trace_ray.realign.candidates import asked_to_stop, is_candidate, write_candidate
from trace_ray.realign.checkpoint import load_checkpoint, save_checkpoint
from trace_ray.realign.data import TrainingRows
from trace_ray.realign.dead import cause_of_death
from trace_ray.realign.reference import reference_place
from trace_ray.realign.setup import adopt_first, load_policy, make_engine, shared_weights, together
from trace_ray.realign.trackers import Tracker, make_trackers
from trace_ray.realign.training import Training
from trace_ray.realign.weights import gathered_weights
from trace_ray.runs.alarms import ALARMS, UNWEIGHED, alarms, unweighed, wrong_reference
from trace_ray.runs.artifacts import TRAINING_METRICS, Run
from trace_ray.runtime import metrics
from trace_ray.runtime.progress import pause

_WRITE_SECONDS = 5.0
_NOTICE_SECONDS = 2.0


class Trainer(Training):
    """Training on DeepSpeed, stored in the run's folder.

    Args:
        run: whose scored/ is trained on; config: all of it.
        rank, workers: of the process group, which is up.
    """

    def __init__(self, run: Run, config: Config, rank: int, workers: int) -> None:
        self.run_folder, self.dtype = run, config.model.dtype
        stored = reference_place(run) if config.realign.stores_reference else None
        whole = rank == 0 or not shared_weights(config.realign, workers)
        rows, (self.model, reference) = together(
            lambda: (TrainingRows.read(run.scored, config.objective, stored), load_policy(run, config, whole=whole))
        )
        if shared_weights(config.realign, workers):
            adopt_first(config.model.path, self.model, reference)
        rows.share_prompts(sharing_rule(self.model), flat=runs_flat(self.model))
        engine = partial(make_engine, self.model, reference, config.realign, config.model)
        super().__init__(rows, config.objective, config.realign, engine, rank=rank, workers=workers)
        self.realign = replace(self.realign, micro_tokens=step_tokens(self.model, self.engine.device, config))
        refuse_longer(rows.most_at_once(), self.realign.tokens, config.realign.micro_tokens, self.engine.device)
        self.saved = -1
        self.trackers: list[Tracker] | None = None
        self._written = self._noticed = time.monotonic()
        self._pause = _WRITE_SECONDS
        self._logged = 0
        self._leaving: set[str] = set()
        self._stopped = False
        self._alarmed: set[str] = set()

    @property
    def over(self) -> bool:
        """As a ``Training``'s; also once a selection needs no further step."""
        return self._stopped or super().over

    @property
    def deepspeed(self) -> Any:
        """DeepSpeed's own engine, which checkpoints are made of."""
        return self.engine.deepspeed  # type: ignore[attr-defined]

    def restore(self, folder: Path) -> None:
        """Goes on from a checkpoint of any number of workers."""
        cursor = load_checkpoint(self.deepspeed, self.model, folder)
        self.step, self.metrics = cursor["step"], cursor["metrics"]
        self.saved, self._logged = self.step, len(self.metrics)
        self._alarmed = {name for row in self.metrics for name in row.get(ALARMS, {})}

    def raises_flag(self) -> bool:
        """Whether it is time to ask for preemption notices, which all workers do together."""
        return time.monotonic() - self._noticed > _NOTICE_SECONDS

    def train_step(self) -> None:
        """As a ``Training``'s; where a step cannot be made, the figures of those before it are written first."""
        try:
            super().train_step()
        except UserError:
            if self.rank == 0 and self.metrics:
                self.write_metrics()
            raise

    def tell(self) -> None:
        """Tells the last step's figures to who watches.

        Raises: UserError, on all workers alike, where the last steps trained nothing, or the first one shows that the stored
            reference is another model.
        """
        figures = self.metrics[-1]
        if self.step == 1:
            figures["run_as"] = how_run(self.model) | {"micro_tokens": self.realign.tokens}
        self._alarm(figures)
        if self.rank == 0:
            metrics.count("training_tokens", figures["tokens"])
            metrics.gauge("training_tokens_per_second", figures["tokens_per_s"])
            metrics.gauge("training_step", self.step)
        if self.rank == 0 and time.monotonic() - self._written > self._pause:
            self.write_metrics()
        self._refuse_death()

    def _alarm(self, figures: dict[str, Any]) -> None:
        """Refuses a wrong reference, and notes in the step's figures what says for the first time that training is sick."""
        rounds = self.objective.weights == "u2a"  # the later ones start from the one before, not from the reference
        if self.step == 1 and not rounds:
            wrong = wrong_reference(figures, self.objective, self.dtype)
            if wrong:
                remedy = "it was scored with another model, template or length than is trained: run impact again in a new run"
                raise UserError(self.run_folder.scored.place.uri, wrong, remedy)
        scored = self.run_folder.scored.manifest()["counts"] if self.step == 1 else {}
        if names := unweighed(scored, self.rows.counts, self.objective):
            figures[UNWEIGHED] = names
        now = alarms(self.metrics, self.objective, self.realign)
        if new := {name: text for name, text in now.items() if name not in self._alarmed}:
            figures[ALARMS] = new
            self._alarmed |= new.keys()

    def _refuse_death(self) -> None:
        realign = self.realign
        cause = cause_of_death(
            self.metrics,
            self.objective.weighed,
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
        place = self.run_folder.realign.place
        (place / TRAINING_METRICS).write_text("".join(json.dumps(row) + "\n" for row in self.metrics))
        if self.trackers is None:
            self.trackers = make_trackers(self.realign.trackers, place, self.run_folder.place.uri, self._logged + 1)
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

    def keep_candidate(self) -> None:
        """Writes the adapter as the selection's candidate where the step is to be one; every rank takes part."""
        if not is_candidate(self.step, self.realign.select.steps, over=super().over):
            return
        weights = gathered_weights(self.model, keep=self.rank == 0)
        if self.rank == 0:
            self.write_metrics()
            write_candidate(self.run_folder, self.model, weights, self.step)

    def hear_stop(self) -> None:
        """Ends the run at this step where the selection has asked for it. A collective call."""
        import torch.distributed

        if self.realign.select.steps:
            told = [self.rank == 0 and asked_to_stop(self.run_folder)]
            torch.distributed.broadcast_object_list(told)
            self._stopped = bool(told[0])

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
        save_checkpoint(self.deepspeed, self.model, Path(folder), cursor, whole=self.realign.whole_checkpoints)
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
