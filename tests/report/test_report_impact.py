"""The report on impact: which pairs are weighed, and how the weights are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.report.made_run import MadeRun, config_of
from trace_ray.report.page import render, report_sections
from trace_ray.report.sections.impact import effective_size, head_share, impact_section


def test_the_heaviest_conflicts_come_first(made: MadeRun) -> None:
    impact = impact_section(made.run, config_of("report.top_pairs=4").report, config_of().objective)
    assert impact is not None
    assert [row.impact for row in impact.top] == [10.0, 9.0, 8.0, -2.0]
    assert [row.category for row in impact.top] == ["PUNISH", "INVERT", "INVERT", "INVERT"]
    assert impact.top[0].roles == {"chosen": "suppressed", "rejected": "suppressed"}
    assert impact.top[1].roles == {"chosen": "suppressed", "rejected": "preferred"}
    assert impact.top[3].roles == {}
    assert impact.pairs == 6
    assert impact.clamped == 3
    assert impact.head_share == pytest.approx(100 * 10 / 27)


def test_a_method_that_weighs_retain_counts_it_everywhere(tmp_path: Path) -> None:
    """Rows 0 to 19 without the two of ABSTAIN have impact row - 2: 3 of 18 are at or below 0."""
    config = config_of("objective.retain=pair")
    made = MadeRun(tmp_path, objective=config.objective)
    made.triage()
    made.impact()
    impact = impact_section(made.run, config.report, config.objective)
    assert impact is not None
    assert {name: len(found) for name, found in impact.impacts.items()} == {"INVERT": 4, "PUNISH": 2, "RETAIN": 12}
    assert (impact.pairs, impact.clamped, impact.pairs_are) == (18, 3, "weighed pairs")
    assert impact.head_share == pytest.approx(100 * (16 + 15) / sum(row - 2 for row in range(3, 19) if row != 9))
    assert impact.top[0].category == "RETAIN"
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
    impact = impact_section(made.run, config.report, config.objective)
    assert impact is not None
    assert [row.impact for row in impact.top] == [10.0, 9.0, 8.0, 0.0, -1.0, -2.0]
    assert (impact.effective, impact.effective_of("INVERT"), impact.effective_of("PUNISH")) == (6, 4, 2)
    page = render(made.run, config)
    assert "The 6 pairs of highest impact" in page
    for absent in ("weight 0", "heaviest", "highest weight"):
        assert absent not in page.split('id="impact"')[1].split('id="training"')[0], absent


def test_weights_are_described_as_they_are() -> None:
    assert effective_size(np.ones(50)) == pytest.approx(50)
    assert effective_size(np.array([5.0, 0.0])) == pytest.approx(1)
    assert effective_size(np.zeros(3)) == 0
    assert head_share(np.ones(100)) == pytest.approx(10)
    assert head_share(np.zeros(0)) == 0


@pytest.mark.parametrize(("weights", "answer"), [("uniform", "All alike"), ("u2a", "By rounds"), ("impact", "37 %")])
def test_the_card_of_impact_says_how_pairs_are_weighed(made: MadeRun, weights: str, answer: str) -> None:
    (card,) = [
        c for c in report_sections(made.run, config_of(f"objective.weights={weights}"))["cards"] if c.anchor == "impact"
    ]
    assert card.answer == answer
