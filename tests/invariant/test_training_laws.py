"""Training's laws: how many workers, which ZeRO stage, how many micro-steps and whether it was resumed change nothing.

Worker processes joined by gloo, without Ray. Those of one number of workers train one after the other in the same processes.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.invariant.laws import assert_same, assert_same_training, hold
from tests.realign import handmade
from tests.realign.handmade import Job
from trace_ray.model.loading import load_adapter, load_model
from trace_ray.runs.artifacts import Run
from trace_ray.study.train import train

STEPS, HALF = 12, 5
"""Of four epochs of 22 pairs, 8 a step; where the first part of a resumed training ends."""
ONE_PAIR = 1
"""A budget of one token a micro-batch: each of a step's 8 pairs is a micro-step of its own."""

Result = dict[str, Any]


class Trained:
    """One scored run and all the trainings of it that the laws compare, by name."""

    def __init__(self, folder: Path) -> None:
        self.made: dict[str, Result] = {}
        self.model = handmade.tiny_model(folder / "model")
        self.run: Run = handmade.make_run(folder / "run", handmade.tiny_config(self.model))
        two = {f"two-zero{stage}": self.job(zero_stage=stage, micro_tokens=ONE_PAIR) for stage in range(4)}
        two |= {"two-half": self.job(HALF, zero_stage=2, micro_tokens=ONE_PAIR), "two-full": self.full(3)}
        two["two-lacking"] = self.job(batch=3, micro_tokens=ONE_PAIR, zero_stage=3)
        self.made |= handmade.train_each(self.run, two, folder / "two", 2)
        resume = self.made["two-half"]["folder"]
        jobs = {"one": self.job(), "micro": self.job(micro_tokens=ONE_PAIR), "resumed": self.job(resume=resume)}
        jobs |= {"lacking": self.job(batch=3), "full": self.full(0)}
        self.made |= handmade.train_each(self.run, jobs, folder / "one", 1)

    def job(self, steps: int = STEPS, resume: Path | None = None, **realign: Any) -> Job:
        return Job(self.config(**realign), steps, resume)

    def full(self, stage: int) -> Job:
        """Full fine-tuning with a frozen copy as the reference."""
        return self.job(tune="full", kl_reference="frozen_copy", learning_rate=1e-3, zero_stage=stage)

    def config(self, **realign: Any) -> Any:
        return handmade.tiny_config(self.model, **({"epochs": 4, "batch": 8, "micro_tokens": 10**6} | realign))

    def assert_same(self, name: str, other: str) -> None:
        assert_same_training(self.made[name], self.made[other])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("laws"))


@pytest.mark.skipif("TRACE_RAY_VARY" in os.environ, reason="the stored training is of the seeds that the test names")
class TestTrainingIsTheStoredOne:
    """Today's training = the training that was stored, on any processor."""

    def test_one_worker(self, trained: Trained) -> None:
        hold("one_worker", trained.made["one"]["metrics"])
        assert trained.made["one"]["metrics"][-1]["PUNISH/loss"] < trained.made["one"]["metrics"][0]["PUNISH/loss"]


class TestOneMicroStepIsMany:
    """1 x 8 = 8 x 1: a step's pairs in one forward = each in a forward of its own."""

    def test_a_micro_step_a_pair(self, trained: Trained) -> None:
        trained.assert_same("micro", "one")


class TestOneWorkerIsTwoIsAResume:
    """1 worker = 2 workers = 2 workers that stop, and 1 that goes on from their checkpoint."""

    def test_two_workers(self, trained: Trained) -> None:
        trained.assert_same("two-zero0", "one")

    def test_one_goes_on_where_two_stopped(self, trained: Trained) -> None:
        assert len(trained.made["two-half"]["metrics"]) == HALF
        trained.assert_same("resumed", "one")


class TestEveryZeroStageIsTheSame:
    """ZeRO 0 = 1 = 2 = 3, on 2 workers and with 4 micro-steps a step on each."""

    @pytest.mark.parametrize("stage", [0, 1, 2, 3])
    def test_stage(self, trained: Trained, stage: int) -> None:
        trained.assert_same(f"two-zero{stage}", "one")

    def test_micro_batches_that_lack_a_category_do_not_hang_zero_3(self, trained: Trained) -> None:
        """One worker gets anchors, the other pairs: only one has reference sequences, and the last step one sample."""
        trained.assert_same("two-lacking", "lacking")

    def test_full_fine_tuning_with_a_frozen_copy(self, trained: Trained) -> None:
        assert trained.made["full"]["metrics"][-1]["RETAIN/loss"] > 1e-5
        assert "model.embed_tokens.weight" in trained.made["full"]["weights"]
        trained.assert_same("two-full", "full")


class TestStudyTrainsAsTheStage:
    """The study's engine (torch alone) = the stage's (DeepSpeed), on the same rows from the same adapter."""

    def test_torch_alone(self, trained: Trained) -> None:
        config = trained.config()
        folder = Path(trained.run.impact.place.path) / "adapter_init"
        model = load_adapter(load_model(config.model), folder, trainable=True)
        seen: list[Any] = []
        realign = replace(config.realign, max_steps=STEPS)
        scored = trained.run.scored.read()
        train(model, scored, config.objective, realign, lambda training: seen.append(training.metrics[-1]))
        assert_same(seen, trained.made["one"]["metrics"])
