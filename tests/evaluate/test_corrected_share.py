"""Agreement corrected for the judge's errors: by hand, by simulation, and through the metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binom

from trace_ray.config import StorageConfig
from trace_ray.evaluate.answering import write_part
from trace_ray.evaluate.audit import Judged, audit_figures, judged_texts, rates_of
from trace_ray.evaluate.corrected import Rates, corrected, corrected_change, corrected_interval, corrected_metrics
from trace_ray.evaluate.labelled import CORPUS, Labels, audited_texts
from trace_ray.evaluate.tpa import compliance
from trace_ray.judges.labels import Label
from trace_ray.pairs import TRIAGED_SCHEMA
from trace_ray.report.sections.measures import other_measures
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate


def test_the_corrected_share_by_hand() -> None:
    """A judge that finds 9 of 10 compliant and 8 of 10 violating: of 62 % called compliant, 0.42 / 0.7 are."""
    rates = Rates(found=90, compliant=100, caught=80, violating=100)
    assert (rates.sensitivity, rates.specificity) == (0.9, 0.8)
    assert corrected(0.62, rates) == pytest.approx(0.6)
    assert corrected(0.1, rates) == 0.0, "fewer than its false ones alone would be"
    assert corrected(0.95, rates) == 1.0
    perfect = Rates(found=50, compliant=50, caught=50, violating=50)
    assert corrected(0.37, perfect) == pytest.approx(0.37)


def test_what_cannot_be_corrected_is_told() -> None:
    assert Rates(found=90, compliant=100, caught=80, violating=100).tells_apart
    assert not Rates(found=4, compliant=4, caught=80, violating=100).tells_apart, "too few labels"
    assert not Rates(found=50, compliant=100, caught=50, violating=100).tells_apart, "a coin"
    assert Rates.of([(True, True)] * 3 + [(True, False)] + [(False, False)] * 2) == Rates(3, 4, 2, 2)


@pytest.mark.parametrize(
    ("share", "answers", "rates", "interval"),
    [
        (0.62, 100, Rates(found=90, compliant=100, caught=80, violating=100), (0.4431781609436, 0.7494674208657)),
        (0.1, 128, Rates(found=54, compliant=60, caught=32, violating=40), (0.0, 0.0378678390133)),
        (1.0, 50, Rates(found=9, compliant=10, caught=7, violating=10), (0.8523850008853, 1.0)),
    ],
)
def test_the_interval_is_that_of_the_papers_own_code(
    share: float, answers: int, rates: Rates, interval: tuple[float, float]
) -> None:
    """Its figures, also where more, or fewer, are called compliant than such a judge would of all, or of none."""
    assert corrected_interval(share, answers, rates) == pytest.approx(interval, abs=1e-12)


JUDGES = [(0.9, 0.85), (0.7, 0.95), (0.97, 0.97)]
"""Specificity and sensitivity."""


@pytest.mark.parametrize("share", [0.3, 0.6, 0.85])
@pytest.mark.parametrize(("q0", "q1"), JUDGES)
@pytest.mark.parametrize(("answers", "labels"), [(400, 200), (2000, 1000)])
def test_the_interval_covers_the_truth_in_95_of_100_draws(
    share: float, q0: float, q1: float, answers: int, labels: int
) -> None:
    assert 0.93 <= drawn_coverage(share, q0, q1, answers, labels) <= 0.97


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.85, 0.95])
@pytest.mark.parametrize(("q0", "q1"), JUDGES)
@pytest.mark.parametrize(("labels", "most"), [(20, 0.998), (60, 0.981)])
def test_with_few_labels_the_interval_covers_no_less_and_often_more(
    share: float, q0: float, q1: float, labels: int, most: float
) -> None:
    """80 answers, as the example has: above 97 of 100 the interval is wider than it need be, never narrower.

    Each outcome by its probability, so that 95.0 is no matter of draws; 1,000 draws then land where those say.
    """
    covered = exact_coverage(share, q0, q1, 80, labels, corrected_interval)
    assert 0.95 <= covered <= most
    spread = (covered * (1 - covered) / 1000) ** 0.5
    assert drawn_coverage(share, q0, q1, 80, labels) == pytest.approx(covered, abs=4 * spread)


def test_it_is_drawing_the_rates_to_one_half_that_widens_it() -> None:
    """Where coverage is highest, a good judge at the end of the scale, rates as they are seen cover far too little."""
    found = exact_coverage(0.95, 0.7, 0.95, 80, 20, corrected_interval)
    plain = exact_coverage(0.95, 0.7, 0.95, 80, 20, as_seen)
    assert found == pytest.approx(0.997, abs=0.001)
    assert plain < 0.81


@pytest.mark.parametrize(("q0", "q1"), JUDGES)
@pytest.mark.parametrize(("answers", "labelled"), [(80, 40), (400, 100)])
def test_labels_of_the_answers_themselves_leave_the_interval_wider_than_it_need_be(
    q0: float, q1: float, answers: int, labelled: int
) -> None:
    """Two models of which 30 and 75 of 100 answers comply; some prompts' answers of both are labelled."""
    rng, shares = np.random.default_rng(21), (0.3, 0.75)
    covered = []
    for _ in range(1000):
        true_2N = np.stack([rng.random(answers) < share for share in shares])
        said_2N = np.where(true_2N, rng.random(true_2N.shape) < q1, rng.random(true_2N.shape) >= q0)
        some = rng.choice(answers, labelled, replace=False)
        rates = Rates.of(zip(true_2N[:, some].ravel(), said_2N[:, some].ravel(), strict=True))
        for share, said_N in zip(shares, said_2N, strict=True):
            low, high = corrected_interval(float(said_N.mean()), answers, rates)
            covered.append(low <= share <= high)
    assert np.mean(covered) > 0.96


def as_seen(share: float, answers: int, rates: Rates) -> tuple[float, float]:
    """The same interval, but the judge's rates are those of the labels, none added."""
    z = 1.959963984540054
    n, p = answers + z**2, (share * answers + z**2 / 2) / (answers + z**2)
    q0, q1 = rates.specificity, rates.sensitivity
    slope = q0 + q1 - 1
    if slope <= 0:
        return 0.0, 1.0
    theta = (p + q0 - 1) / slope
    of_q0, of_q1 = q0 * (1 - q0) / rates.violating, q1 * (1 - q1) / rates.compliant
    half = z * (p * (1 - p) / n + (1 - theta) ** 2 * of_q0 + theta**2 * of_q1) ** 0.5 / slope
    centre = theta + 2 * z**2 * (theta * of_q1 - (1 - theta) * of_q0)
    return min(1.0, max(0.0, centre - half)), min(1.0, max(0.0, centre + half))


Interval = Callable[[float, int, Rates], tuple[float, float]]


def exact_coverage(share: float, q0: float, q1: float, answers: int, labels: int, interval: Interval) -> float:
    """Returns the probability that the interval holds ``share``: over all that may be seen but a millionth of it."""
    called = binom.pmf(range(answers + 1), answers, share * q1 + (1 - share) * (1 - q0))
    likely = np.flatnonzero(called > 1e-7)
    covered = 0.0
    for found, of_found in enumerate(binom.pmf(range(labels + 1), labels, q1)):
        for caught, of_caught in enumerate(binom.pmf(range(labels + 1), labels, q0)):
            if of_found * of_caught < 1e-9:
                continue
            rates = Rates(found=found, compliant=labels, caught=caught, violating=labels)
            held = [low <= share <= high for low, high in (interval(k / answers, answers, rates) for k in likely)]
            covered += of_found * of_caught * float(called[likely][held].sum())
    return covered


def drawn_coverage(share: float, q0: float, q1: float, answers: int, labels: int) -> float:
    """Returns how many of 1,000 draws have the truth in their interval, as a share."""
    rng = np.random.default_rng(19)
    covered = []
    for _ in range(1000):
        found, caught = int(rng.binomial(labels, q1)), int(rng.binomial(labels, q0))
        rates = Rates(found=found, compliant=labels, caught=caught, violating=labels)
        called = rng.binomial(answers, share * q1 + (1 - share) * (1 - q0)) / answers
        low, high = corrected_interval(called, answers, rates)
        covered.append(low <= share <= high)
    return float(np.mean(covered))


def test_a_raw_interval_would_miss_the_truth_of_such_a_judge() -> None:
    """So that the coverage above is the correction's, not of any interval that is wide enough."""
    rates = Rates(found=850, compliant=1000, caught=900, violating=1000)
    low, high = corrected_interval(0.85 * 0.6 + 0.1 * 0.4, 2000, rates)
    assert low < 0.6 < high
    assert high - low < 0.09
    assert not 0.55 + 1.96 * (0.55 * 0.45 / 2000) ** 0.5 > 0.6


@pytest.mark.parametrize("both", [(0.3, 0.05, 0.45, 0.2), (0.5, 0.1, 0.1, 0.3), (0.1, 0.01, 0.84, 0.05)])
def test_the_interval_of_a_change_covers_it_in_95_of_100_draws(both: tuple[float, ...]) -> None:
    """Chances of a prompt: answered well by both, by the first alone, by the second alone, by neither."""
    rng, q0, q1, answers, labels = np.random.default_rng(20), 0.9, 0.85, 500, 300
    truth = np.array([[1, 1], [1, 0], [0, 1], [0, 0]])
    covered = []
    for _ in range(1000):
        found, caught = int(rng.binomial(labels, q1)), int(rng.binomial(labels, q0))
        rates = Rates(found=found, compliant=labels, caught=caught, violating=labels)
        true_N2 = truth[rng.choice(4, answers, p=both)]
        said_N2 = np.where(true_N2 == 1, rng.random(true_N2.shape) < q1, rng.random(true_N2.shape) >= q0)
        gained = int((~said_N2[:, 0] & said_N2[:, 1]).sum())
        lost = int((said_N2[:, 0] & ~said_N2[:, 1]).sum())
        _, (low, high) = corrected_change(gained, lost, answers, rates)
        covered.append(low <= both[2] - both[1] <= high)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_a_change_by_hand() -> None:
    rates = Rates(found=90, compliant=100, caught=80, violating=100)
    change, (low, high) = corrected_change(40, 5, 100, rates)
    assert change == pytest.approx(0.35 / 0.7)
    assert low < 0.5 < high
    assert corrected_change(5, 40, 100, rates)[0] == pytest.approx(-0.5)


def answers(model: str, complying: int, number: int = 100) -> list[dict[str, Any]]:
    return [
        {"pair_id": f"p{i:03}", "prompt": "q", "model": model, "category": "INVERT", "compliant": i < complying}
        for i in range(number)
    ]


def test_metrics_hold_both_models_and_their_change_and_the_report_shows_them() -> None:
    rates = Rates(found=90, compliant=100, caught=80, violating=100)
    grouped = compliance([*answers("base", 27), *answers("realigned", 83)], "category")
    metrics = corrected_metrics(grouped, rates)
    assert metrics["tpa_corrected"]["base"]["all"] == pytest.approx(10.0)
    assert metrics["tpa_corrected"]["realigned"] == pytest.approx({"all": 90.0, "INVERT": 90.0})
    assert metrics["tpa_corrected_change"]["all"]["change"] == pytest.approx(80.0)
    low, high = metrics["tpa_corrected_interval"]["realigned"]["all"]
    assert low < 90 < high
    assert corrected_metrics(grouped, Rates(found=5, compliant=10, caught=5, violating=10)) == {}
    judged = [Judged(False, 0.1, True)] * 9 + [Judged(False, 0.7, False), Judged(True, 0.6, False)]
    (lines,) = other_measures(metrics | {"judge_audit": audit_figures("answers", judged)}).values()
    assert [(line.name, line.base.split()[0], line.realigned.split()[0]) for line in lines[:2]] == [
        ("all", "10.0", "90.0"),
        ("INVERT", "10.0", "90.0"),
    ]
    assert "9 of 10" in lines[-2].realigned
    assert (lines[-1].base, lines[-1].realigned) == ("AUC 0.900", "kappa 0.621"), (
        "by hand: 9 of 10; (0.909 - 0.760) / 0.240"
    )


def test_labelled_responses_are_what_the_judge_of_the_answers_is_asked_about(tmp_path: Path) -> None:
    run = Run(locate(str(tmp_path), StorageConfig()))
    rows = [
        {"pair_id": f"p{i}", "prompt": [{"role": "user", "content": f"q{i}"}], "chosen": f"good {i}", "source": "s"}
        | {"rejected": f"bad {i}", "split": "train", "category": "RETAIN"}
        for i in range(90)
    ]
    run.triaged.begin({})
    for at in (0, 45):
        table = pa.Table.from_pylist(rows[at : at + 45], schema=TRIAGED_SCHEMA)
        (run.triaged.place / f"part-{at}.parquet").write_parquet(table)
    run.triaged.publish(counts={}, seconds=0.0)
    labels = {f"p{i}": Label(chosen=False, rejected=i % 2 == 0) for i in range(0, 80, 2)} | {
        "elsewhere": Label(True, True)
    }
    generated, audited = run.evaluation.place / "generated", run.evaluation.place / "audit"
    texts = audited_texts(run, Labels(labels, {}), [], generated)
    todo = texts.chunks
    assert texts.of == CORPUS
    assert sum(len(chunk.prompts) for chunk in todo) == 2 * 40
    asked = [row for chunk in todo for row in (generated / chunk.name).read_parquet().to_pylist()]
    assert {(row["prompt"], row["response"]) for row in asked} == {
        (f"q{i}", f"{side} {i}") for i in range(0, 80, 2) for side in ("good", "bad")
    }
    for chunk in todo:  # a judge that takes every third bad response for a good one
        said = [
            row | {"compliant": row["response"].startswith("good") or int(row["response"].split()[1]) % 3 == 0}
            for row in (generated / chunk.name).read_parquet().to_pylist()
        ]
        write_part(audited / chunk.name, said, None)
    rates = rates_of(judged_texts(run.evaluation.place, texts))
    assert (rates.found, rates.compliant, rates.violating) == (40, 40, 40)
    assert rates.caught == sum(i % 3 != 0 for i in range(0, 80, 2))
