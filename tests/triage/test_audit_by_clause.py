"""Error rates by clause: a judge that is sound on one clause and rash on another, each bounded by its own labels."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.triage.test_triage_blocks import WHOLE, Table, bench, pairs
from trace_ray.config import TriageConfig
from trace_ray.config.load import load_config
from trace_ray.errors import UserError
from trace_ray.judges.clauses import leading
from trace_ray.triage.audit import audit
from trace_ray.triage.block import judge_block
from trace_ray.triage.calibrate import Calibration, Decision, Fit, decision_of
from trace_ray.triage.decide import decide_block
from trace_ray.triage.fitting import Labelled, fit_all
from trace_ray.triage.labels import Label

RATE, CONFIDENCE = 0.15, 0.9
BY_CLAUSE = TriageConfig(
    audit_labels="x", audit_by="clause", calibration="platt", false_invert_rate=RATE, confidence=CONFIDENCE
)
CLAUSES = ("sound", "rash", "rare")
MEANT = np.array([2.5, 1.05, 2.5])
"""How far a broken clause and a kept one lie apart, in standard deviations, as the judge sees them."""
BROKEN = np.array([[0.3, 0.3, 0.004], [0.1, 0.1, 0.004]])
"""How often a chosen and a rejected response break each."""


def drawn(rng: np.random.Generator, number: int) -> list[Labelled]:
    """Pairs whose responses break clauses at random; P(violates) is the largest P of a clause, as ``verdict_by: clauses``."""
    truth = rng.random((number, 2, 3)) < BROKEN
    logit = 1.6 * ((2 * truth - 1) * MEANT + rng.normal(0, 1, truth.shape)) - 1.0
    p = 1 / (1 + np.exp(-logit))
    return [
        Labelled(
            f"{i:06d}",
            Label(*(bool(side.any()) for side in truth[i])),
            float(p[i, 0].max()),
            float(p[i, 1].max()),
            clause=leading(tuple(zip(CLAUSES, p[i, 0].tolist(), strict=True))),
        )
        for i in range(number)
    ]


def false_share(decision: Decision, fresh: list[Labelled], clause: str) -> float:
    """Share of the INVERT verdicts of one clause that the labels do not bear out."""
    mine = [pair for pair in fresh if pair.clause == clause]
    p = np.array([(pair.p_chosen, pair.p_rejected) for pair in mine], dtype=float)
    said = decision.categories(*p.T, groups=[pair.group(decision.by) for pair in mine]) == "INVERT"
    true = np.array([pair.label == Label(True, False) for pair in mine])
    return float((said & ~true).sum() / max(1, said.sum()))


def test_the_stated_rate_holds_for_each_clause_where_all_labels_together_break_it() -> None:
    """At confidence 0.9 a tenth of the bounds may miss: 5 of 16 would come once in 60 such tests."""
    rng = np.random.default_rng(5)
    fresh, missed, own, pooled = drawn(rng, 4000), 0, 0, 0
    for _ in range(8):
        labelled = drawn(rng, 900)
        fitted = fit_all(labelled, BY_CLAUSE)
        for clause in ("sound", "rash"):
            if clause in fitted.decision.groups:
                own += 1
                missed += false_share(fitted.decision, fresh, clause) > RATE
        pooled += false_share(fit_all(labelled, replace(BY_CLAUSE, audit_by="all")).decision, fresh, "rash") > RATE
    assert own >= 8
    assert missed <= 4
    assert pooled >= 6, "a bound for all clauses at once is none for the worst of them"


def test_a_clause_with_few_labels_has_what_all_have_and_is_told_so() -> None:
    figures = audit(drawn(np.random.default_rng(3), 900), BY_CLAUSE)
    rows = {row["clause"]: row for row in figures["groups"]}
    assert rows["sound"]["own"]
    assert not rows["rare"]["own"]
    assert rows["rare"]["why"]
    decision = decision_of(json.loads(json.dumps(figures["decision"])))
    assert decision.by == "clause"
    assert "rare" not in decision.groups
    assert decision.band_of("rare") == decision.band == rows["rare"]["band"]
    assert rows["sound"]["upper_bound"] <= RATE


def test_a_pair_is_decided_as_the_clause_that_its_chosen_response_breaks() -> None:
    class Reader(Table):
        def clauses(self, _requests: Any, responses: Any) -> Any:
            return [(("a", 0.9), ("b", 0.6)) if "a-like" in text else (("a", 0.1), ("b", 0.8)) for text in responses]

    block = pairs(("p", "0.6 a-like", "0.1 x"), ("q", "0.6 b-like", "0.1 y"), ("r", "0.2 fine", "0.1 z"))
    judged, _ = judge_block(block, bench(Reader(), clauses_from=0.5), None, WHOLE)
    wide = Decision(Calibration(), 0.5, 0.0, {"a": Fit(Calibration(), 0.2)}, by="clause")
    decided = decide_block(block, judged, wide, {}, None, WHOLE).triaged
    assert decided["category"].to_pylist() == ["ABSTAIN", "INVERT", "RETAIN"]
    assert isinstance(decided, pa.Table)


def test_clauses_must_be_asked_for() -> None:
    with pytest.raises(UserError, match=r"triage\.audit_by: clause: no verdict tells of clauses"):
        load_config([], ["policy.text=x", "triage.audit_by=clause"])
