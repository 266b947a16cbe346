"""Sharding's laws where they cost minutes: every ZeRO stage on 1, 2 and 3 workers, resumes across them, memory saved.

Worker processes joined by gloo, without Ray; the quick half of these laws is in ``test_training_laws.py``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.invariant.laws import assert_same_training
from tests.realign import handmade
from trace_ray.runs.artifacts import Run

pytestmark = pytest.mark.slow

STEPS = 20

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

    def assert_plain(self, got: Result) -> None:
        """Holds that a training is the one on one worker at ZeRO 0."""
        assert_same_training(got, self.train("plain"))


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(tmp_path_factory.mktemp("zero"))


class TestEveryZeroStageOnAnyWorkersIsTheSame:
    """ZeRO 0 = 1 = 2 = 3, on 1, 2 and 3 workers; a step's pairs are not divided evenly among 3."""

    @pytest.mark.parametrize(
        ("stage", "workers"), [(0, 2), (0, 3), (1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3)]
    )
    def test_stage_on_workers(self, setting: Setting, stage: int, workers: int) -> None:
        setting.assert_plain(setting.train(f"zero{stage}-{workers}", workers, zero_stage=stage))


class TestAResumeIsTheUndisturbedRun:
    """A run stopped and gone on with, by as many workers or others, at the same ZeRO stage or another = one not stopped."""

    @pytest.mark.parametrize("stage", [0, 1, 2, 3])
    def test_with_the_same_workers(self, setting: Setting, stage: int) -> None:
        setting.train(f"half{stage}", 2, steps=9, zero_stage=stage)
        setting.assert_plain(setting.train(f"rest{stage}", 2, resume=f"half{stage}", zero_stage=stage))

    def test_with_other_workers_and_stages(self, setting: Setting) -> None:
        """2 workers at ZeRO 3, then 1 at ZeRO 0, then 2 at ZeRO 2: from the consolidated weights and moments."""
        setting.train("first", 2, steps=7, zero_stage=3)
        setting.train("second", 1, steps=13, resume="first", zero_stage=0)
        setting.assert_plain(setting.train("third", 2, resume="second", zero_stage=2))

    def test_onto_zero_3_where_workers_do_not_divide_the_weights(self, setting: Setting) -> None:
        setting.train("one", 1, steps=9, zero_stage=1)
        setting.assert_plain(setting.train("three", 3, resume="one", zero_stage=3))


class TestMemorySavedChangesNothing:
    """Activations made again, and state kept in CPU memory = neither."""

    def test_gradient_checkpointing(self, setting: Setting) -> None:
        setting.assert_plain(setting.train("recomputed", gradient_checkpointing=True))

    @pytest.mark.parametrize(("stage", "offload"), [(1, "optimizer"), (2, "optimizer"), (3, "all")])
    def test_offloading(self, setting: Setting, stage: int, offload: str) -> None:
        setting.assert_plain(setting.train(f"offload{stage}", 2, zero_stage=stage, offload=offload))


class TestBfloat16IsNearlyFloat32:
    """As on a GPU: weights in bfloat16, masters and moments in float32; coarser than float32, and resumed as well."""

    @pytest.mark.parametrize("stage", [0, 2, 3])
    def test_whole_and_resumed(self, setting: Setting, stage: int) -> None:
        half: dict[str, Any] = {"dtype": "bfloat16", "zero_stage": stage}
        whole = setting.train(f"bf16 {stage}", 2, **half)
        setting.train(f"bf16 first {stage}", 2, steps=9, **half)
        resumed = setting.train(f"bf16 rest {stage}", 1, resume=f"bf16 first {stage}", **half)
        plain = setting.train("plain")
        for sharded in (whole, resumed):
            assert [row["samples"] for row in sharded["metrics"]] == [row["samples"] for row in plain["metrics"]]
            for name in ("INVERT/loss", "PUNISH/loss"):
                mine, theirs = ([row[name] for row in run["metrics"] if name in row] for run in (sharded, plain))
                assert mine == pytest.approx(theirs, rel=0.15, abs=0.05)
