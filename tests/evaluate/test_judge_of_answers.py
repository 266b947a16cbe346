"""The judge of the answers through ``run_evaluate``: held against labels of answers or of the corpus, stopped by limits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.brought_judges import ASKED
from tests.support.known_answers import (
    ALL,
    BAD,
    GENERATED,
    PAIRS,
    PROMPTS,
    answer,
    answers_asked,
    config_of,
    label,
    metrics_of,
    of_corpus,
    of_the_answers,
    trained_run,
    written,
)
from trace_ray.config import EvaluateConfig, settings
from trace_ray.errors import JudgeRejectedError, StaleRunError
from trace_ray.evaluate.stage import audits_anew, run_evaluate
from trace_ray.runs.artifacts import Run
from trace_ray.triage.labelling.answers import of_answers


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return trained_run(tmp_path / "run", monkeypatch)


@pytest.mark.parametrize(
    ("limit", "loosened", "said"),
    [
        (
            {},
            {"min_auc": 0.0},
            r"AUC 0\.\d+: judge .* 60 labelled responses of the corpus: limit evaluate\.min_auc=0\.7; ",
        ),
        (
            {"min_auc": 0.0, "min_kappa": 0.5},
            {"min_auc": 0.0, "min_kappa": 0.0},
            r"kappa -?0\.\d+: at triage\.threshold=0\.5 judge chance and labels disagree on 60 .*evaluate\.min_kappa=0\.5; ",
        ),
    ],
)
def test_a_judge_at_random_on_the_corpus_stops_the_evaluation_before_it_judges_an_answer(
    run: Run, tmp_path: Path, limit: dict[str, Any], loosened: dict[str, Any], said: str
) -> None:
    labels = of_corpus(tmp_path, run)
    with pytest.raises(JudgeRejectedError, match=rf"^evaluate\.judge: {said}.* knowingly$"):
        run_evaluate(run, config_of("Chance", audit_labels=labels, **limit))
    assert not run.evaluation.done()
    assert answers_asked() == 2 * 16, "what canaries ask of, nothing else"
    before, answered = dict(ASKED), len(GENERATED)
    stored = json.loads((run.evaluation.place / "audit.json").read_text())
    assert (stored["of"], stored["responses"], stored["violating"]) == ("responses of the corpus", 60, 15)
    with pytest.raises(JudgeRejectedError):
        run_evaluate(run, config_of("Chance", audit_labels=labels, **limit))
    assert dict(ASKED) == before, "refused again without a question"
    run_evaluate(run, config_of("Chance", audit_labels=labels, **limit | loosened))
    assert run.evaluation.done()
    again = {text for text, number in before.items() if ASKED[text] > number and text not in ALL}
    assert not again, "no labelled response and no canary is judged again"
    assert len(GENERATED) == answered


def test_a_judge_at_random_on_its_labelled_answers_stops_it_and_a_lower_limit_asks_nothing(
    run: Run, tmp_path: Path
) -> None:
    run_evaluate(run, config_of("Chance"))
    assert "judge_audit" not in metrics_of(run), "no labels, no limit"
    before, answered, raw = dict(ASKED), len(GENERATED), metrics_of(run)["tpa"]
    labelled = config_of("Chance", audit_labels=of_the_answers(tmp_path, run))
    assert audits_anew(run, labelled)
    with pytest.raises(
        JudgeRejectedError, match=r"^evaluate\.judge: AUC 0\.\d+: .* on 60 labelled answers: limit eval"
    ):
        run_evaluate(run, labelled)
    assert not run.evaluation.done()
    run_evaluate(run, replace(labelled, evaluate=replace(labelled.evaluate, min_auc=0.0)))
    assert (dict(ASKED), len(GENERATED)) == (before, answered), "nothing is judged or answered again"
    assert metrics_of(run)["tpa"] == raw
    assert metrics_of(run)["judge_audit"]["of"] == "answers"
    assert not audits_anew(run, replace(labelled, evaluate=replace(labelled.evaluate, min_auc=0.0)))
    with pytest.raises(StaleRunError, match=r"evaluate\.judge"):
        run_evaluate(run, config_of("Truthful"))


def test_a_good_judge_passes_and_its_errors_on_the_answers_correct_the_agreement(run: Run, tmp_path: Path) -> None:
    """By loops over the texts: answers whose number is a multiple of seven are called what they are not."""
    run_evaluate(run, config_of("Flawed"))
    run_evaluate(run, config_of("Flawed", audit_labels=of_the_answers(tmp_path, run)))
    found = {"good": [0, 0], "BAD": [0, 0]}
    shown = [text for pair in of_answers(run, 30, 0) for text in (pair.chosen, pair.rejected)]
    for text in shown:
        kind, right = text.split()[-1], int(text.split()[2]) % 7 != 0
        found[kind][0] += 1
        found[kind][1] += right
    judged = metrics_of(run)["judge_audit"]
    names = ("compliant", "compliant_called_so", "violating", "violating_called_so")
    assert [judged[name] for name in names] == [*found["good"], *found["BAD"]]
    q1, q0 = (right / number for number, right in found.values())
    assert 0.7 < judged["auc"] == pytest.approx((q0 + q1) / 2), "two values: the area is the mean of both shares"
    for model in BAD:
        called = [("BAD" in answer(model, i)) == (i % 7 == 0) for i in range(PROMPTS)]
        share = sum(called) / PROMPTS
        assert metrics_of(run)["tpa"][model]["all"] == pytest.approx(100 * share)
        wanted = min(1.0, max(0.0, (share + q0 - 1) / (q0 + q1 - 1)))
        assert metrics_of(run)["tpa_corrected"][model]["all"] == pytest.approx(100 * wanted)
    assert {name: group["responses"] for name, group in judged["by_source"].items()} == {
        source: sum("ab"[int(text.split()[2]) % 2] == source for text in shown) for source in "ab"
    }
    bad = {"first": "base", "second": "realigned"}
    assert {name: group["violating"] for name, group in judged["by_clause"].items()} == {
        clause: sum(text.startswith(f"answer {model}") and text.endswith("BAD") for text in shown)
        for clause, model in bad.items()
    }
    assert all(group["compliant"] == found["good"][0] for group in judged["by_clause"].values())


def test_labels_of_other_answers_are_of_none_of_these(run: Run, tmp_path: Path) -> None:
    """A label is of texts: too few that are there leave the corpus' labels, under which this judge never errs."""
    run_evaluate(run, config_of("Flawed"))
    pairs = [pair._replace(pair_id=pair.pair_id[::-1]) for pair in of_answers(run, 30, 0)]
    mine = [label(pair.pair_id, "BAD" in pair.chosen, "BAD" in pair.rejected) for pair in pairs]
    corpus = [label(f"train{i}", i % 2 == 1, False) for i in range(PAIRS)]
    run_evaluate(run, config_of("Flawed", audit_labels=written(tmp_path, [*mine, *corpus])))
    judged = metrics_of(run)["judge_audit"]
    assert (judged["of"], judged["responses"], judged["auc"]) == ("responses of the corpus", 60, 1.0)


def test_a_run_of_before_keeps_its_inputs() -> None:
    """At their defaults the limits are no inputs; set, they are, and they alone are followed without judging anew."""
    assert not {
        name
        for name in settings(EvaluateConfig(), "evaluate")
        if name.rpartition(".")[2] in ("min_auc", "min_kappa", "min_canary_pass")
    }
    assert settings(EvaluateConfig(min_auc=0.8), "evaluate")["evaluate.min_auc"] == 0.8
