"""The report on impact: which pairs are weighed, and how the weights are told."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.report.made_run import MadeRun, config_of
from trace_ray.config import Config
from trace_ray.pairs import TRIAGED_SCHEMA, categorise
from trace_ray.report.page import render, report_sections
from trace_ray.report.sections.browser import BrowsedPair, browser_section, said_by
from trace_ray.report.sections.impact import effective_size, head_share, impact_section
from trace_ray.report.survey.surveys import surveys
from trace_ray.report.survey.values import Values, values_of
from trace_ray.runs.artifacts import Run


def top(run: Run, config: Config) -> Sequence[BrowsedPair]:
    config = replace(config, report=replace(config.report, sample=0))
    browser = browser_section(run, surveys(run, config), config, 0.5)
    assert browser is not None
    return browser.pairs


def test_the_heaviest_conflicts_come_first(made: MadeRun) -> None:
    impact = impact_section(made.run, surveys(made.run, config_of()), config_of().objective)
    assert impact is not None
    pairs = top(made.run, config_of("report.top_pairs=4"))
    assert [row.impact for row in pairs] == [10.0, 9.0, 8.0, -2.0]
    assert [row.category for row in pairs] == ["PUNISH", "INVERT", "INVERT", "INVERT"]
    assert pairs[0].roles == {"chosen": "suppressed", "rejected": "suppressed"}
    assert pairs[1].roles == {"chosen": "suppressed", "rejected": "preferred"}
    assert pairs[3].roles == {}
    assert impact.pairs == 6
    assert impact.clamped == 3
    assert impact.head_share == pytest.approx(100 * 10 / 27)


def test_a_method_that_weighs_retain_counts_it_everywhere(tmp_path: Path) -> None:
    """Rows 0 to 19 without the two of ABSTAIN have impact row - 2: 3 of 18 are at or below 0."""
    config = config_of("objective.retain=pair")
    made = MadeRun(tmp_path, objective=config.objective)
    made.triage()
    made.impact()
    impact = impact_section(made.run, surveys(made.run, config), config.objective)
    assert impact is not None
    assert {name: len(found) for name, found in impact.impacts.items()} == {"INVERT": 4, "PUNISH": 2, "RETAIN": 12}
    assert (impact.pairs, impact.clamped, impact.pairs_are) == (18, 3, "weighed pairs")
    assert impact.head_share == pytest.approx(100 * (16 + 15) / sum(row - 2 for row in range(3, 19) if row != 9))
    assert top(made.run, config)[0].category == "RETAIN"
    (card,) = [c for c in report_sections(made.run, config)["cards"] if c.anchor == "impact"]
    assert "of 18 weighed pairs; 3 have weight 0" in card.sentence
    page = render(made.run, config)
    assert "(objective.retain = pair). The higher the impact" in page
    assert "of the weighed pairs (at or below 0: weight 0)" in page
    assert "conflicts, heaviest first" not in page


def test_uniform_weights_are_not_told_by_impact(tmp_path: Path) -> None:
    config = config_of("objective.weights=uniform")
    made = MadeRun(tmp_path, objective=config.objective)
    made.triage()
    made.impact()
    impact = impact_section(made.run, surveys(made.run, config), config.objective)
    assert impact is not None
    assert [row.impact for row in top(made.run, config)] == [10.0, 9.0, 8.0, 0.0, -1.0, -2.0]
    assert (impact.effective, impact.effective_of("INVERT"), impact.effective_of("PUNISH")) == (6, 4, 2)
    page = render(made.run, config)
    assert "the pairs of highest impact" in page
    for absent in ("weight 0", "heaviest", "highest weight"):
        assert absent not in page.split('id="impact"')[1].split('id="training"')[0], absent


def test_weights_are_described_as_they_are() -> None:
    assert effective_size(values_of(np.ones(50))) == pytest.approx(50)
    assert effective_size(values_of(np.array([5.0, 0.0]))) == pytest.approx(1)
    assert effective_size(values_of(np.zeros(3))) == 0
    assert head_share(values_of(np.ones(100))) == pytest.approx(10)
    assert head_share(Values()) == 0


@pytest.mark.parametrize(("weights", "answer"), [("uniform", "All alike"), ("u2a", "By rounds"), ("impact", "37 %")])
def test_the_card_of_impact_says_how_pairs_are_weighed(made: MadeRun, weights: str, answer: str) -> None:
    (card,) = [
        c for c in report_sections(made.run, config_of(f"objective.weights={weights}"))["cards"] if c.anchor == "impact"
    ]
    assert card.answer == answer


def test_the_share_of_pairs_that_push_both_ways_is_told(made: MadeRun) -> None:
    assert "push both ways" not in render(made.run, config_of()), "an earlier version scored it"
    place = made.run.scored.place / "manifest.json"
    counted = {"INVERT": {"pairs": 4, "both_ways": 1}, "PUNISH": {"pairs": 2, "both_ways": 0}}
    place.write_text(json.dumps(json.loads(place.read_text()) | {"ches": counted}))
    text = re.sub(r"<[^>]+>", "", render(made.run, config_of()))
    assert re.search(r"Pairs that push both ways: .*INVERT 1 of 4 \(25.0 %\), .*PUNISH 0 of 2 \(0.0 %\)\.", text)


def test_only_pairs_that_push_both_ways_are_named(made: MadeRun) -> None:
    """Above 0, the highest first, each among the pairs to look at; none where an earlier version scored them."""
    config, named = config_of("report.top_pairs=1", "report.sample=0"), []
    for part in made.run.scored.parts():
        rows = part.read_parquet().drop_columns(["ches_per_token"]).to_pylist()
        part.write_parquet(pa.Table.from_pylist(rows))
    earlier = impact_section(made.run, surveys(made.run, config), config.objective)
    assert earlier is not None
    assert earlier.alike == []
    config = replace(config, report=replace(config.report, top_pairs=9))
    for part in made.run.scored.parts():
        rows = part.read_parquet().to_pylist()
        told = {row["pair_id"]: 0.0 if number else 0.25 for number, row in enumerate(rows)}
        named += [(name, value) for name, value in told.items() if value > 0]
        table = [row | {"ches_per_token": told[row["pair_id"]]} for row in rows]
        part.write_parquet(pa.Table.from_pylist(table))
    seen = surveys(made.run, config)
    found, browser = impact_section(made.run, seen, config.objective), browser_section(made.run, seen, config, 0.5)
    assert found is not None
    assert browser is not None
    assert found.alike == sorted(named)[:5]
    assert {name for name, _ in found.alike} <= {pair.pair_id for pair in browser.pairs}


def test_a_sample_holds_every_category_and_split(tmp_path: Path) -> None:
    """40 of 200 pairs, of eight strata: five of each, or all there are; the same ones whenever it is asked."""
    made = MadeRun(tmp_path, rows=200)
    made.triage()
    for name in ("part-0", "part-1"):
        place = made.run.triaged.place / f"{name}.parquet"
        rows = [row | {"split": "test" if row["row"] % 4 == 0 else "train"} for row in place.read_parquet().to_pylist()]
        place.write_parquet(pa.Table.from_pylist(rows, schema=TRIAGED_SCHEMA))
    config = config_of("report.sample=40")
    seen = [surveys(made.run, config) for _ in range(2)]
    browsers = [browser_section(made.run, each, config, 0.5) for each in seen]
    assert browsers[0] is not None
    assert browsers[0] == browsers[1]
    there = Counter((row["category"], row["split"]) for row in made.run.triaged.read().to_pylist())
    shown = Counter((pair.category, pair.split) for pair in browsers[0].pairs)
    assert set(shown) == set(there)
    assert sum(shown.values()) == 40
    assert all(number >= min(there[stratum], 40 // len(there)) for stratum, number in shown.items())
    assert {pair.certainty for pair in browsers[0].pairs} == {"sure", "unreadable"}
    stored = {row["pair_id"]: row for row in made.run.triaged.read().to_pylist()}
    for pair in browsers[0].pairs:
        assert pair.responses["chosen"] is not None
        assert stored[pair.pair_id]["chosen"].startswith(pair.responses["chosen"].text)
        assert (pair.category, pair.source) == (stored[pair.pair_id]["category"], stored[pair.pair_id]["source"])


@pytest.mark.parametrize("category", ["INVERT", "PUNISH", "RETAIN"])
@pytest.mark.parametrize("p_rejected", [0.1, 0.9, None])
def test_what_is_accepted_gives_the_category_again(category: str, p_rejected: float | None) -> None:
    said = said_by(category, p_rejected, 0.5)
    assert said is not None
    assert categorise(not said["chosen"], not said["rejected"]) == category


@pytest.mark.parametrize(("p", "certainty"), [(0.31, "near"), (0.29, "sure"), (0.69, "near"), (0.71, "sure")])
def test_a_pair_is_near_within_a_fifth_of_the_threshold(tmp_path: Path, p: float, certainty: str) -> None:
    made = MadeRun(tmp_path, rows=2)
    made.triage()
    for number in range(2):
        row = made.pair(number) | {"p_violates_chosen": p, "p_violates_rejected": 0.99}
        place = made.run.triaged.place / f"part-{number}.parquet"
        place.write_parquet(pa.Table.from_pylist([row], schema=TRIAGED_SCHEMA))
    config = config_of()
    browser = browser_section(made.run, surveys(made.run, config), config, 0.5)
    assert browser is not None
    assert {pair.certainty for pair in browser.pairs} == {certainty}
