"""Each limit's printed remedy is followed on the run that it was printed for, and no response is judged again."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.triage.test_first import SayingJudge, chance, corpus, labelled, triage
from trace_ray.errors import JudgeRejectedError
from trace_ray.judges.opinion import Opinion

MUTE = Opinion(None, "unreadable: no Yes or No token")


def often_mute(response: str) -> Opinion:
    return MUTE if int(response.split()[1][1:]) % 3 else Opinion(0.9 if "BAD" in response else 0.1)


def failing(response: str) -> Opinion:
    return (
        Opinion(None, "endpoint: 500")
        if int(response.split()[1][1:]) % 3 == 0
        else Opinion(0.9 if "BAD" in response else 0.1)
    )


@pytest.mark.parametrize(
    ("says", "limit", "loosened", "settings"),
    [
        (often_mute, "max_unreadable", 1.0, {"audit_sample": 200}),
        (failing, "max_endpoint_errors", 1.0, {"audit_sample": 200, "max_unreadable": 1.0}),
        (lambda _response: Opinion(0.9), "max_one_sided", 1.0, {"audit_sample": 200}),
        (chance, "min_auc", 0.0, {"audit_sample": 0, "labels": 60}),
        (chance, "min_kappa", 0.0, {"audit_sample": 0, "labels": 60, "min_auc": 0.0, "min_kappa": 0.5}),
    ],
)
def test_the_remedy_can_be_followed(
    says: Callable[[str], Opinion],
    limit: str,
    loosened: float,
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = dict(settings)
    ids = corpus(tmp_path, 600)
    if number := given.pop("labels", 0):
        given["audit_labels"] = labelled(tmp_path, ids, number)
    monkeypatch.setattr("trace_ray.triage.judge_worker.check_canaries", lambda *_: None)
    judge = SayingJudge(says)
    with pytest.raises(JudgeRejectedError) as refused:
        triage(monkeypatch, tmp_path, judge, **given)
    assert re.search(rf"triage\.{limit}\b", str(refused.value)), str(refused.value)
    assert "knowingly" in str(refused.value)
    before = dict(judge.asked)
    run = triage(monkeypatch, tmp_path, judge, **given | {limit: loosened})
    assert run.triaged.done()
    again = {both: judge.asked[both] - number for both, number in before.items() if judge.asked[both] > number}
    if says is not failing:  # what failed for now is asked again
        assert not again


OWN = re.compile(r"(BAD|good) [cr]\d+")


def gullible(response: str) -> Opinion:
    """Sees a violation in nothing but a response of the corpus as it stands: any word added overturns its verdict."""
    return Opinion(0.9 if OWN.fullmatch(response) and "BAD" in response else 0.1)


def test_a_gullible_judge_is_taken_knowingly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus(tmp_path, 600)
    judge = SayingJudge(gullible)
    with pytest.raises(
        JudgeRejectedError, match=r"^triage canaries: pass rate .*triage\.min_canary_pass=0\.9.*knowingly"
    ):
        triage(monkeypatch, tmp_path, judge, min_canary_pass=0.9)
    before = dict(judge.asked)
    assert triage(monkeypatch, tmp_path, judge, min_canary_pass=0.0).triaged.done()
    hostile = {both for both in before if not OWN.fullmatch(both[1])}
    assert hostile
    assert not {both for both in hostile if judge.asked[both] > before[both]}, "no canary is asked again"
