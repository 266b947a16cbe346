"""Stage 3 with a selection: candidates are measured beside the training, and the one that is kept is exported.

The training never waits: a thread of the driver looks for candidates and measures those that are there, by actors that end
with their work and so hold nothing that a restarted training would wait for. Where there is no room beside the training,
Ray starts them after it. What is kept depends on the files alone.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from trace_ray.cluster.connection import ensure_ray
from trace_ray.cluster.data_pool import pooled
from trace_ray.config import Config, JudgeConfig, SelectConfig, settings
from trace_ray.config.policy import policy_identity
from trace_ray.errors import UserError
from trace_ray.evaluate.answering import AnswerJudge, Generator
from trace_ray.evaluate.models import measure_adapter
from trace_ray.evaluate.models_stage import drift_pool
from trace_ray.evaluate.prompts import dev_prompts, drift_pairs
from trace_ray.evaluate.refused import taken
from trace_ray.evaluate.stage import refuse_unreadable
from trace_ray.evaluate.trial import to_be_tried
from trace_ray.model.loading import load_chat_tokenizer
from trace_ray.realign.candidates import (
    CANDIDATES,
    ask_to_stop,
    asked_to_stop,
    candidate_place,
    drop_others,
    selection_place,
)
from trace_ray.realign.checkpoint import ADAPTER
from trace_ray.realign.export_stage import publish_model, publish_training
from trace_ray.realign.stage import realign_inputs, train
from trace_ray.runs.anew import begin
from trace_ray.runs.artifacts import ADAPTER_INIT, CANARIES, GENERATED, REFUSED, RESPONSES, Run
from trace_ray.runs.figures import training_figures
from trace_ray.runs.identity import model_identity
from trace_ray.runs.validations import Validation, validations
from trace_ray.runtime.progress import warn, working
from trace_ray.selection.choose import Choice, choose, over_budget
from trace_ray.selection.measure import answer_chunks, drift_file, judged_answers, publish, unfinished, waiting
from trace_ray.selection.scales import WHOLE, Kept, keep
from trace_ray.selection.told import tell
from trace_ray.storage.location import copy_files

_LOOK_S = 2.0
_AT_ONCE = 8
"""Candidates measured by one start of each engine at most: patience is asked after them."""
Row = dict[str, Any]


def selection_inputs(run: Run, config: Config) -> dict[str, Any]:
    """Returns everything that the kept weights depend on: the training, and what its candidates are measured by."""
    evaluate = config.evaluate
    merged = realign_inputs(run, config) | settings(evaluate.judge, "evaluate.judge")
    merged |= {"policy": policy_identity(config.policy), "triage.threshold": config.triage.threshold}
    names = ("evaluate.max_new_tokens", "evaluate.engine", "evaluate.drift_pairs")
    every = settings(evaluate, "evaluate")
    merged |= {name: every[name] for name in names}
    judge = evaluate.judge
    if judge.backend == "vllm":
        merged["evaluate.judge: model files"] = model_identity(judge.model, judge.revision, config.storage)
    return merged


def run_selected(run: Run, config: Config) -> None:
    """Writes realign/ (checkpoints, metrics, selection) and model/, as stage 3 does, from the candidate that is kept."""
    inputs, started = selection_inputs(run, config), time.monotonic()
    if not begin(run, "realign", inputs):
        return
    if not run.realign.done():
        ensure_ray(config.ray)
        measuring = Measuring(run, config)
        with working("realign: dev prompts, the model as it is"):
            measuring.base()
            tell(run, config.realign)
        if not asked_to_stop(run):
            _train_beside(measuring)
        with working("realign: dev prompts"):
            while measuring.stopped() is None and measuring.measure():
                tell(run, config.realign)
        choice = choose(validations(run), config.realign.select)
        _say(run, config.realign.select, choice)
        tell(run, config.realign)  # a tracker that was down may be up
        kept = keep(run, config.realign.select, choice, lambda scaled: _measure_scales(scaled, measuring))
        _say_scale(kept)
        if kept.step == 0:
            copy_files(run.impact.place / ADAPTER_INIT, candidate_place(run, 0) / ADAPTER)
        drop_others(run, kept.step)
        facts = {**_facts(run, choice, kept), "model_loads": measuring.loads}
        publish_training(run, config, kept.folder, time.monotonic() - started, selection=facts)
    publish_model(run, config, started)


def _measure_scales(scaled: Run, measuring: Measuring) -> None:
    scales = Measuring(scaled, measuring.config)
    with working("realign: dev prompts, the adapter at other scales"):
        while scales.measure():
            pass
    measuring.loads += scales.loads


def _train_beside(measuring: Measuring) -> None:
    """Trains while a thread measures what is there; what it could not, is measured after."""
    over = threading.Event()
    beside = threading.Thread(target=_measure_beside, args=(measuring, over), name="selection", daemon=True)
    beside.start()
    try:
        train(measuring.run, measuring.config)
    finally:
        over.set()
    beside.join()


def _measure_beside(measuring: Measuring, over: threading.Event) -> None:
    try:
        while not over.wait(_LOOK_S):
            if measuring.measure():
                tell(measuring.run, measuring.config.realign)
            stopped = measuring.stopped()
            if stopped is not None:
                ask_to_stop(measuring.run, stopped)
                return
    except Exception as error:  # noqa: BLE001 - a thread's error is nobody's; the same work is done again after the training
        warn(
            f"realign.select: measuring beside the training failed, it goes on after it: {' '.join(str(error).split())[:200]}"
        )


class Measuring:
    """What measures a run's candidates.

    Args:
        run: with triaged/ finished; config: all of it.
    Raises: UserError where no held-out prompt can be a dev prompt.
    """

    def __init__(self, run: Run, config: Config) -> None:
        self.run, self.config, self.place = run, config, selection_place(run)
        self.loads = 0
        """Models that this process had loaded to measure drift, as far as the measuring that ended has told."""
        asked = dev_prompts(run.triaged, config.realign.select)
        if not asked:
            remedy = "a selection takes half of the held-out prompts: raise it, or name corpus.test_paths"
            raise UserError("corpus.holdout", "no dev prompt", remedy)
        dev = {row["pair_id"] for row in asked}
        self.prompts = taken(asked, load_chat_tokenizer(config.model), self.place / REFUSED / "prompts.parquet")
        limit = config.evaluate.drift_pairs
        self.kept_rows = drift_pairs(run.triaged, limit, dev) if limit else []

    def base(self) -> None:
        """Measures the model as it is: a judge that cannot be read, or that canaries refuse, stops the run before training."""
        if not any(validation.step == 0 for validation in validations(self.run)):
            untried = to_be_tried(self.run, self.config, self.place / CANARIES)
            self._measure([0], None, [answer_chunks([0], self.prompts)[0].name] if untried else ())

    def measure(self) -> bool:
        """Measures the candidates that are there; returns whether there were any."""
        steps = waiting(self.run)[:_AT_ONCE]
        if steps:
            self._measure(steps, self.place / CANDIDATES)
        return bool(steps)

    def stopped(self) -> int | None:
        """Returns the step at which patience has run out, by what is measured so far."""
        return choose(validations(self.run), self.config.realign.select).stopped

    def _measure(self, steps: Sequence[int], adapters: Any, seeds: Sequence[str] = ()) -> None:
        started = time.monotonic()
        evaluate, todo = self.config.evaluate, answer_chunks(steps, self.prompts)
        pool = JudgeConfig(num_cpus=evaluate.num_cpus, num_gpus=evaluate.gpus, label_selector=evaluate.label_selector)
        generated = self.place / GENERATED
        _pool(Generator, (self.config, None, generated, adapters), unfinished(todo, generated), pool)
        judged = unfinished(todo, self.place / RESPONSES)
        _pool(AnswerJudge, (self.config, generated, self.place, seeds), judged, evaluate.judge)
        for step in steps:
            refuse_unreadable(evaluate, judged_answers(self.run, step))
        self._measure_drift([step for step in steps if step])
        seconds = (time.monotonic() - started) / len(steps)
        for step in steps:
            publish(self.run, step, len(self.prompts), seconds)

    def _measure_drift(self, steps: Sequence[int]) -> None:
        """By one actor, which loads the base once for all of them and ends with the last."""
        todo = {s: candidate_place(self.run, s) / ADAPTER for s in steps if not drift_file(self.run, s).exists()}
        if not self.kept_rows:
            for step in todo:
                drift_file(self.run, step).write_text("{}")
        elif todo:
            calls = [(step, (self.config, self.kept_rows, place)) for step, place in todo.items()]
            with drift_pool(self.config.evaluate, most=1) as pool:
                for step, figures in pool.each(measure_adapter, calls):
                    drift_file(self.run, step).write_text(json.dumps(figures))
                self.loads += pool.loads


def _pool(worker: type, arguments: tuple[Any, ...], todo: Sequence[Any], pool: JudgeConfig) -> None:
    for _ in pooled(worker, arguments, [{"chunk": chunk} for chunk in todo], pool):
        pass


def _say(run: Run, select: SelectConfig, choice: Choice) -> None:
    """Says on the terminal what was measured."""
    measured = validations(run)
    base, kept = measured[0], next(validation for validation in measured if validation.step == choice.step)
    shown = f"dev TPA {base.tpa['all']:.1f} -> {kept.tpa['all']:.1f} over {base.prompts['all']} prompts"
    if choice.step == 0:
        beyond = {over_budget(validation, base, select) for validation in measured[1:]} - {""}
        why = f"; over budget: {min(beyond)}" if beyond else ""
        warn(f"realign.select: no candidate is better than the model before training, which is kept{why}")
    else:
        warn(f"realign.select: step {choice.step} is kept, {shown}, drift {kept.drift:.3g} nats a token")


def _say_scale(kept: Kept) -> None:
    if kept.measured and kept.step:
        figures = kept.measured[kept.percent]
        shown = f"dev TPA {figures.tpa['all']:.1f}, drift {figures.drift:.3g} nats a token"
        warn(f"realign.select: the adapter of step {kept.step} is kept at scale {kept.percent / WHOLE:g}, {shown}")


def _facts(run: Run, choice: Choice, kept: Kept) -> Mapping[str, Any]:
    """What realign/'s manifest says of the selection and of what it cost."""
    scaled = [figures for percent, figures in kept.measured.items() if percent not in (0, WHOLE)]
    measured: list[Validation] = [*validations(run), *scaled]
    trained = sum(row["seconds"] for row in training_figures(run))
    seconds = sum(validation.seconds for validation in measured)
    return {
        "step": kept.step,
        "stopped": choice.stopped,
        **kept.facts(),
        "candidates": [validation.step for validation in validations(run)],
        "seconds": round(seconds, 2),
        "tokens": sum(validation.tokens for validation in measured),
        "share_of_training": round(seconds / max(1e-9, trained), 4),
    }
