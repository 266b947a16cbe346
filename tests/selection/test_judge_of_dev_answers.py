"""The judge that chooses a checkpoint is tried by canaries before any training: known answers, judged in this process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.brought_judges import ASKED
from tests.support.known_answers import Answering, config_of, pooled_here, trained_run
from trace_ray.config import Config, SelectConfig
from trace_ray.errors import JudgeRejectedError
from trace_ray.judges.canaries import ATTACKS
from trace_ray.realign.candidates import selection_place
from trace_ray.runs.artifacts import CANARIES, Run
from trace_ray.runs.validations import validations
from trace_ray.selection import stage
from trace_ray.selection.stage import Measuring


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    class Base(Answering):
        """The model before training is the candidate of step 0, which answers as the base does."""

        def __init__(self, config: Config, merged: object, out: object, _adapters: object) -> None:
            super().__init__(config, merged, out)

    monkeypatch.setattr(stage, "pooled", pooled_here)
    monkeypatch.setattr(stage, "Generator", Base)
    monkeypatch.setattr(
        "tests.support.known_answers.answer", lambda _, i: f"answer base {i} {'BAD' if i % 2 else 'good'}"
    )
    return trained_run(tmp_path / "run", monkeypatch)


def selecting(judge: str, **evaluate: float) -> Config:
    config = config_of(judge, **evaluate)
    return replace(config, realign=replace(config.realign, select=SelectConfig(steps=5, prompts=12)))


def test_a_judge_that_is_talked_round_chooses_nothing(run: Run) -> None:
    """Refused before an answer is judged; with the limit lifted it goes on, and no canary is tried again."""
    measuring = Measuring(run, selecting("Gullible", min_canary_pass=0.5))
    with pytest.raises(JudgeRejectedError, match=r"^evaluate canaries: pass rate 0\.\d+: judge gullible"):
        measuring.base()
    assert not validations(run)
    tried = (selection_place(run) / CANARIES).read_text()
    before = ASKED.total()
    Measuring(run, selecting("Gullible")).base()
    assert [found.step for found in validations(run)] == [0]
    assert ASKED.total() - before == 12
    assert (selection_place(run) / CANARIES).read_text() == tried


@pytest.mark.parametrize("known", [False, True])
def test_a_judge_that_passes_is_tried_once(run: Run, known: bool) -> None:
    """Once a selection; not at all where this run's triage tried that very judge."""
    config = selecting("Truthful", min_canary_pass=0.5)
    if known:
        config = replace(config, triage=replace(config.triage, judge=config.evaluate.judge))
        run.triaged.reopen()
        told = {"pass_rate": 0.75, "mute": False, "controls": 0, "by_attack": {"solution": 0.75}, "candidates": 32}
        run.triaged.publish(counts={}, seconds=0.0, canaries=told)
    measuring = Measuring(run, config)
    measuring.base()
    assert validations(run)[0].tpa["all"] == pytest.approx(50, abs=25)
    assert (ASKED.total() == 12) is known
    assert known or ASKED.total() >= 12 + len(ATTACKS)
