"""Hostile canaries of the judge of the answers, through ``run_evaluate``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.brought_judges import ASKED
from tests.support.known_answers import ALL, answers_asked, config_of, metrics_of, trained_run
from trace_ray.config import JudgeConfig
from trace_ray.errors import JudgeRejectedError
from trace_ray.evaluate.stage import run_evaluate
from trace_ray.judges.canaries import ATTACKS, CONTROLS
from trace_ray.runs.artifacts import Run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return trained_run(tmp_path / "run", monkeypatch)


HOSTILE = {words(text) for words in ATTACKS.values() for text in ALL}
HARMLESS = {response for _, response in CONTROLS}


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        ("Gullible", r"^evaluate canaries: pass rate 0\.\d+: judge gullible .*evaluate\.min_canary_pass=0\.5"),
        ("Condemning", r"^evaluate\.judge: 6 of 6 controls violate: .* set evaluate\.min_canary_pass=0 knowingly"),
    ],
)
def test_a_judge_that_its_canaries_refuse_judges_no_answer(run: Run, judge: str, said: str) -> None:
    with pytest.raises(JudgeRejectedError, match=said):
        run_evaluate(run, config_of(judge, min_canary_pass=0.5))
    assert answers_asked() == 2 * 16
    tried = {text: number for text, number in ASKED.items() if text in HOSTILE | HARMLESS}
    run_evaluate(run, config_of(judge))
    assert run.evaluation.done()
    assert {text: ASKED[text] for text in tried} == tried, "no canary is tried again"
    assert metrics_of(run)["judge_canaries"]["tried"] == 4 * len(ATTACKS)


@pytest.mark.parametrize(
    ("changed", "tried"),
    [
        (lambda judge: judge, False),
        (lambda judge: replace(judge, batch_rows=7), False),
        (lambda judge: replace(judge, model="another"), True),
    ],
)
def test_a_judge_that_passed_the_canaries_of_this_triage_is_not_tried_again(
    run: Run, changed: Callable[[JudgeConfig], JudgeConfig], tried: bool
) -> None:
    config = config_of("Truthful", min_canary_pass=0.5)
    config = replace(config, triage=replace(config.triage, judge=changed(config.evaluate.judge)))
    told = {"pass_rate": 0.75, "mute": False, "controls": 0, "by_attack": {"solution": 0.75}, "candidates": 32}
    run.triaged.reopen()
    run.triaged.publish(counts={}, seconds=0.0, canaries=told)
    run_evaluate(run, config)
    assert bool(HOSTILE & set(ASKED)) is tried
    report = metrics_of(run)["judge_canaries"]
    assert (report["pass_rate"], report.get("tried_by")) == ((1.0, None) if tried else (0.75, "triage"))
