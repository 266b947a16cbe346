"""Differences between runs over the same prompts: counted by hand, intervals against the published formula's behaviour."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pytest

from trace_ray.compare.answers import SHOWN, paired_interval, realigned_answers, run_differences, unlike_answers
from trace_ray.compare.collect import collect_all
from trace_ray.compare.page import comparison_page
from trace_ray.pairs import RESPONSE_SCHEMA
from trace_ray.runs.artifacts import Run


def answered(run: Run, compliant: list[bool], text: str) -> Run:
    """Writes answers of both models: of six prompts the first two are INVERT, the others RETAIN; the base keeps none."""
    rows = [
        {"pair_id": f"{i}", "prompt": f"asked {i} <b>", "source": "s", "category": "INVERT" if i < 2 else "RETAIN"}
        | {"model": model, "response": f"{text} {i}", "p_violates": 0.0, "judge_error": None}
        | {"compliant": bool(model == "realigned" and good)}
        for model in ("base", "realigned")
        for i, good in enumerate(compliant)
    ]
    (run.evaluation.place / "responses" / "part-0.parquet").write_parquet(
        pa.Table.from_pylist(rows, schema=RESPONSE_SCHEMA)
    )
    return run


@pytest.fixture
def runs(make_run: Any) -> list[Run]:
    first = answered(make_run("a", "trace", 95.0), [True, True, True, True, False, True], "first")
    return [first, answered(make_run("b", "npo", 60.0), [True, True, False, False, True, True], "second")]


def test_a_difference_counts_the_prompts_that_only_one_complies_on(runs: list[Run]) -> None:
    rows = run_differences(["a", "b"], [realigned_answers(run) for run in runs], 0)
    found = {row.group: (row.run, row.prompts, row.gained, row.lost) for row in rows}
    assert found == {"all": ("b", 6, 1, 2), "s": ("b", 6, 1, 2), "INVERT": ("b", 2, 0, 0), "RETAIN": ("b", 4, 1, 2)}
    other = {row.group: row.points for row in run_differences(["a", "b"], [realigned_answers(run) for run in runs], 1)}
    assert other["RETAIN"] == 25.0
    assert rows[0].group == "RETAIN"  # what fell most comes first


def test_clear_regressions_come_before_larger_unclear_ones() -> None:
    def of(category: str, compliant: list[bool]) -> dict[str, dict[str, Any]]:
        rows = enumerate(compliant)
        return {f"{category}{i}": {"category": category, "source": "s", "compliant": good} for i, good in rows}

    base = of("many", [True] * 200) | of("few", [True] * 3)
    mine = of("many", [False] * 30 + [True] * 170) | of("few", [False] * 1 + [True] * 2)
    rows = [row for row in run_differences(["a", "b"], [base, mine], 0) if row.group in ("many", "few")]
    assert [(row.group, row.clear) for row in rows] == [("many", True), ("few", False)]
    assert rows[1].points < rows[0].points


@pytest.mark.parametrize(("gained", "lost", "pairs"), [(0, 0, 96), (10, 2, 40), (0, 5, 5), (50, 50, 100)])
def test_a_paired_interval_holds_its_estimate_and_mirrors(gained: int, lost: int, pairs: int) -> None:
    low, high = paired_interval(gained, lost, pairs)
    assert -100 <= low <= 100 * (gained - lost) / (pairs + 2) <= high <= 100
    assert paired_interval(lost, gained, pairs) == pytest.approx((-high, -low))
    wide, narrow = paired_interval(gained, lost, pairs), paired_interval(10 * gained, 10 * lost, 10 * pairs)
    assert narrow[1] - narrow[0] < wide[1] - wide[0]


def test_answers_stand_in_columns_where_verdicts_differ(runs: list[Run]) -> None:
    answers = [realigned_answers(run) for run in runs]
    rows = unlike_answers(answers)
    assert [row.prompt for row in rows] == ["asked 2 <b>", "asked 3 <b>", "asked 4 <b>"]
    assert rows[0].answers == [("first 2", True), ("second 2", False)]
    assert len(unlike_answers([dict.fromkeys("abc", answers[0]["0"]), {}])) == 0
    many = [{str(i): {**answers[0]["0"], "compliant": bool(at)} for i in range(SHOWN + 5)} for at in range(2)]
    assert len(unlike_answers(many)) == SHOWN


def test_the_page_shows_differences_and_hides_what_is_alike(runs: list[Run]) -> None:
    page = comparison_page(collect_all(runs), [realigned_answers(run) for run in runs])
    assert page.index("Differences, regressions first") < page.index("Every figure")
    assert page.count("data-baseline=") == 2
    assert "asked 2 &lt;b&gt;" in page
    assert "<b>" not in page.split("</style>")[1]
    compared = re.sub(r"<details>.*?</details>", "", page.split('id="compared"')[1], flags=re.DOTALL)
    assert "evaluation judge" not in compared
    assert "Differences, regressions first" not in comparison_page(collect_all(runs))
