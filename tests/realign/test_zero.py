"""DeepSpeed's stages, numbers of workers and micro-batches train the same weights; so does a resume across them.

Worker processes joined by gloo, without Ray: each case costs seconds.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.realign import handmade
from trace_ray.config import RealignConfig
from trace_ray.realign.schedule import rate_factor
from trace_ray.realign.zero import deepspeed_config
from trace_ray.runs.artifacts import Run

STEPS = 20
RTOL, ATOL = 2e-3, 2e-4
"""Weights are about 0.3 after 20 steps at lr 1e-2; Adam turns rounding of small gradients into steps."""

Result = dict[str, Any]


class Setting:
    """A scored run and what was trained on it, by the settings' names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = handmade.tiny_model(folder / "model")
        self.run: Run = handmade.make_run(folder / "run", handmade.tiny_config(self.model))
        self.made: dict[str, Result] = {}

    def train(self, name: str, workers: int = 1, steps: int = STEPS, resume: str = "", **realign: Any) -> Result:
        if name not in self.made:
            dtype = realign.pop("dtype", "float32")
            config = handmade.tiny_config(self.model, **({"epochs": 5} | realign))
            config = replace(config, model=replace(config.model, dtype=dtype))
            source = self.made[resume]["folder"] if resume else None
            self.made[name] = handmade.train(self.run, config, self.folder / name, workers, steps, source)
        return self.made[name]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(tmp_path_factory.mktemp("zero"))


def assert_same(got: Result, expected: Result) -> None:
    assert [row["samples"] for row in got["metrics"]] == [row["samples"] for row in expected["metrics"]]
    for name, value in expected["weights"].items():
        torch.testing.assert_close(got["weights"][name], value, rtol=RTOL, atol=ATOL)
    for name in ("INVERT/loss", "PUNISH/loss", "RETAIN/loss", "grad_norm"):
        mine, theirs = ({row["step"]: row[name] for row in one["metrics"] if name in row} for one in (got, expected))
        assert mine == pytest.approx(theirs, rel=2e-2, abs=2e-4)


def test_training_moves_the_adapter_and_lowers_the_loss(setting: Setting) -> None:
    metrics = setting.train("plain")["metrics"]
    losses = [row["PUNISH/loss"] for row in metrics if "PUNISH/loss" in row]
    assert losses[0] == pytest.approx(2 * 0.6931, abs=1e-3)
    assert losses[-1] < losses[0] - 0.05
    watched = {"lr", "grad_norm", "tokens", "padding", "seconds", "tokens_per_s", "memory_gib", "workers", "samples"}
    assert all(watched <= set(row) for row in metrics)
    assert all(v.abs().max() > 1e-2 for n, v in setting.made["plain"]["weights"].items() if "lora_B" in n)


@pytest.mark.parametrize(("stage", "workers"), [(1, 2), (2, 1), (3, 2)])
def test_every_stage_and_two_workers_equal_stage_0_on_one(setting: Setting, stage: int, workers: int) -> None:
    assert_same(setting.train(f"zero{stage}", workers, zero_stage=stage), setting.train("plain"))


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "workers"), [(0, 2), (1, 1), (2, 2), (3, 1), (3, 3), (0, 3)])
def test_the_other_stages_and_workers_too(setting: Setting, stage: int, workers: int) -> None:
    assert_same(setting.train(f"zero{stage}-{workers}", workers, zero_stage=stage), setting.train("plain"))


def test_the_logged_rate_is_the_one_that_the_step_took(setting: Setting) -> None:
    realign = handmade.tiny_config(setting.model, epochs=5).realign
    rates = [row["lr"] for row in setting.train("plain")["metrics"]]
    steps = setting.train("plain")["metrics"][0]["steps"]
    factors = [rate_factor(step, steps, realign.warmup_steps, realign.schedule) for step in range(STEPS)]
    assert rates == pytest.approx([realign.learning_rate * factor for factor in factors])


@pytest.mark.parametrize(("stage", "workers"), [(1, 2), (2, 2), (3, 1)])
def test_every_stage_accumulates_several_micro_batches_a_step(setting: Setting, stage: int, workers: int) -> None:
    """A budget of one token: each of a step's 8 pairs is a micro-batch; their gradients add up, none is lost or doubled."""
    split = setting.train(f"split{stage}", workers, batch=8, micro_tokens=1, zero_stage=stage)
    assert_same(split, setting.train("whole", batch=8, micro_tokens=10**6))


def test_one_pair_at_a_time_equals_all_at_once(setting: Setting) -> None:
    """1 x 8 = 8 x 1: a budget of one token makes every pair a micro-batch of its own."""
    single = setting.train("single", batch=8, micro_tokens=1)
    assert_same(single, setting.train("whole", batch=8, micro_tokens=10**6))


@pytest.mark.slow
def test_gradient_checkpointing_changes_nothing(setting: Setting) -> None:
    assert_same(setting.train("recomputed", gradient_checkpointing=True), setting.train("plain"))


@pytest.mark.slow
def test_a_resume_with_other_workers_and_stage_equals_the_undisturbed_run(setting: Setting) -> None:
    """2 workers at ZeRO 3, then 1 at ZeRO 0, then 2 at ZeRO 2: from the consolidated weights and moments."""
    setting.train("first", 2, steps=7, zero_stage=3)
    setting.train("second", 1, steps=13, resume="first", zero_stage=0)
    assert_same(setting.train("third", 2, resume="second", zero_stage=2), setting.train("plain"))


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_resume_with_the_same_workers_equals_the_undisturbed_run(setting: Setting, stage: int) -> None:
    setting.train(f"half{stage}", 2, steps=9, zero_stage=stage)
    assert_same(setting.train(f"rest{stage}", 2, resume=f"half{stage}", zero_stage=stage), setting.train("plain"))


@pytest.mark.slow
def test_a_resume_onto_zero_3_where_workers_do_not_divide_the_weights(setting: Setting) -> None:
    setting.train("one", 1, steps=9, zero_stage=1)
    assert_same(setting.train("three", 3, resume="one", zero_stage=3), setting.train("plain"))


def test_micro_batches_that_lack_a_category_do_not_hang_zero_3(setting: Setting, tmp_path: Path) -> None:
    """One worker gets anchors, the other pairs: only one has reference sequences, and the last step one sample."""
    single = setting.train("lacking", 2, batch=3, micro_tokens=1, zero_stage=3, epochs=3)
    assert_same(single, setting.train("not lacking", 1, batch=3, epochs=3))


def test_full_fine_tuning_with_a_frozen_copy(setting: Setting) -> None:
    full: dict[str, Any] = {"tune": "full", "kl_reference": "frozen_copy", "learning_rate": 1e-3}
    plain = setting.train("full", **full)
    assert plain["metrics"][-1]["RETAIN/loss"] > 1e-5
    assert "model.embed_tokens.weight" in plain["weights"]
    assert_same(setting.train("full zero", 2, zero_stage=3, **full), plain)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_bfloat16_trains_and_resumes(setting: Setting, stage: int) -> None:
    """As on a GPU: weights in bfloat16, masters and moments in float32; coarser than the other runs, and as good."""
    half: dict[str, Any] = {"dtype": "bfloat16", "zero_stage": stage}
    whole = setting.train(f"bf16 {stage}", 2, **half)
    setting.train(f"bf16 first {stage}", 2, steps=9, **half)
    resumed = setting.train(f"bf16 rest {stage}", 1, resume=f"bf16 first {stage}", **half)
    plain = setting.train("plain")
    for one in (whole, resumed):
        assert [row["samples"] for row in one["metrics"]] == [row["samples"] for row in plain["metrics"]]
        for name in ("INVERT/loss", "PUNISH/loss"):
            mine, theirs = ([row[name] for row in run["metrics"] if name in row] for run in (one, plain))
            assert mine == pytest.approx(theirs, rel=0.15, abs=0.05)


def test_the_deepspeed_dict() -> None:
    made = deepspeed_config(RealignConfig(zero_stage=3, offload="all", use_gpu=True, max_grad_norm=0.5), "bfloat16")
    assert made["bf16"] == {"enabled": True}
    assert made["gradient_clipping"] == 0.5
    pinned = {"device": "cpu", "pin_memory": True}
    assert made["zero_optimization"] == {"stage": 3, "offload_optimizer": pinned, "offload_param": pinned}
    assert deepspeed_config(RealignConfig(), "float32")["zero_optimization"] == {"stage": 0}
    assert deepspeed_config(RealignConfig(), "bfloat16")["zero_optimization"] == {"stage": 1}


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "offload"), [(1, "optimizer"), (2, "optimizer"), (3, "all")])
def test_offloading_changes_nothing(setting: Setting, stage: int, offload: str) -> None:
    assert_same(setting.train(f"offload{stage}", 2, zero_stage=stage, offload=offload), setting.train("plain"))
