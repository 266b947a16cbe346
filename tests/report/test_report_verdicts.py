"""What the page calls good, bad or unclear, and what it warns of: tables of figures on both sides of each limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest

from tests.report.made_run import AUDIT, MadeRun, config_of
from trace_ray.config import ObjectiveConfig
from trace_ray.config.objective import TermConfig
from trace_ray.pairs import TRIAGED_SCHEMA
from trace_ray.report.sections.change import ChangeRow, ChangeSection, Measured, change_section
from trace_ray.report.sections.cost import cost_section
from trace_ray.report.sections.gap import Gap, Shares, clause_shares, gap_section
from trace_ray.report.sections.headline import Card, headline
from trace_ray.report.sections.impact import ImpactSection, impact_section
from trace_ray.report.sections.judge import JudgeAudit, JudgeSection, judge_section
from trace_ray.report.sections.lineage import Lineage, lineage_section
from trace_ray.report.sections.measures import attacks
from trace_ray.report.sections.problems import Problems, Refused, problems_section
from trace_ray.report.sections.warnings import Caution, warnings
from trace_ray.report.survey.surveys import surveys


class Sections(NamedTuple):
    """A made run's sections."""

    gap: Gap
    judge: JudgeSection
    audit: JudgeAudit
    impact: ImpactSection
    change: ChangeSection
    problems: Problems
    lineage: Lineage
    made: MadeRun

    def warned(self, **changed: Any) -> list[Caution]:
        """Returns the warnings with sections ``changed``."""
        sections = {name: getattr(self, name) for name in ("gap", "judge", "impact", "change", "problems", "lineage")}
        return warnings(**({"objective": ObjectiveConfig()} | sections | changed))

    def card(self, anchor: str, question: str, **changed: Any) -> Card:
        """Returns one answer of the first screen with sections ``changed``."""
        sections = {name: getattr(self, name) for name in ("gap", "judge", "impact", "change")}
        cards = headline(**(sections | changed), cost=cost_section(self.made.run))
        (found,) = [card for card in cards if card.anchor == anchor and card.question == question]
        return found


@pytest.fixture(scope="module")
def sections(tmp_path_factory: pytest.TempPathFactory) -> Sections:
    made, config = MadeRun(tmp_path_factory.mktemp("run")), config_of()
    run = made.everything(AUDIT)
    seen = surveys(run, config)
    gap, judge, change = gap_section(run, seen), judge_section(run, seen, config.triage), change_section(run)
    impact = impact_section(run, seen, config.objective)
    assert gap is not None
    assert judge is not None
    assert judge.audit is not None
    assert impact is not None
    assert change is not None
    found = problems_section(run, seen, "none")
    return Sections(gap, judge, judge.audit, impact, change, found, lineage_section(run, config), made)


def row_of(name: str, base: float, realigned: float, difference: tuple[float, float] | None, width: float) -> ChangeRow:
    """Returns a group of 40 prompts whose models' intervals are ``width`` to either side."""
    before, after = (Measured(value, value - width, value + width) for value in (base, realigned))
    return ChangeRow(name, 40, before, after, difference)


@pytest.mark.parametrize(
    ("difference", "width", "clear"),
    [
        ((1.0, 9.0), 50.0, True),
        ((-9.0, -1.0), 50.0, True),
        ((-1.0, 9.0), 0.0, False),
        ((0.0, 9.0), 0.0, False),
        ((-9.0, 0.0), 0.0, False),
        (None, 4.0, True),
        (None, 6.0, False),
    ],
)
def test_a_change_is_clear_where_its_own_interval_leaves_0_out(
    difference: tuple[float, float] | None, width: float, clear: bool
) -> None:
    """The models' own intervals decide only where the change has none: 40 and 50 meet from a width of 5."""
    assert row_of("all", 40, 50, difference, width).clear is clear
    assert row_of("all", 50, 40, difference, width).clear is clear


@pytest.mark.parametrize(
    ("base", "realigned", "difference", "tone"),
    [
        (40, 60, (10.0, 30.0), "good"),
        (40, 60, (-10.0, 50.0), "warn"),
        (60, 40, (-30.0, -10.0), "bad"),
        (60, 40, (-50.0, 10.0), "warn"),
        (50, 50, (0.0, 0.0), "warn"),
    ],
)
def test_a_change_is_good_or_bad_only_where_it_is_clear(
    sections: Sections, base: float, realigned: float, difference: tuple[float, float], tone: str
) -> None:
    change = replace(sections.change, by_category=[row_of("all", base, realigned, difference, 5.0)])
    card = sections.card("change", "What changed in the model?", change=change)
    assert (card.tone, card.answer) == (tone, f"{base} → {realigned} %")
    assert ("unclear" in card.sentence or "no change seen" in card.sentence) is (tone == "warn")
    said = [warning.text for warning in sections.warned(change=change)]
    assert ("The change in agreement is smaller than its uncertainty." in said) is (tone == "warn")


@pytest.mark.parametrize(
    ("realigned", "difference", "tone", "level"),
    [
        (81.0, (-4.0, 6.0), "good", ""),
        (79.0, (-4.0, 2.0), "good", ""),
        (78.5, (-4.0, 1.0), "warn", "note"),
        (70.0, (-15.0, -5.0), "bad", "bad"),
    ],
)
def test_a_loss_of_what_was_kept_is_weighed_by_its_size_and_certainty(
    sections: Sections, realigned: float, difference: tuple[float, float], tone: str, level: str
) -> None:
    """Up to a point less is none; more is a warning, and bad where it is sure."""
    rows = [row_of("all", 40, 60, (10.0, 30.0), 5.0), row_of("RETAIN", 80, realigned, difference, 5.0)]
    change = replace(sections.change, by_category=rows)
    assert sections.card("worse", "Was anything lost?", change=change).tone == tone
    told = [warning for warning in sections.warned(change=change) if warning.text.startswith("Still right: compliance")]
    assert [warning.level for warning in told] == ([level] if level else [])
    others = (ObjectiveConfig(RETAIN=TermConfig()), ObjectiveConfig(kl_target=0.1))
    more = [warning for objective in others for warning in sections.warned(change=change, objective=objective)]
    bad = [warning for warning in (*told, *more) if warning.level == "bad" and warning.text.startswith("Still right")]
    remedies = [warning.remedy.partition(",")[0] for warning in bad]
    advice = ("objective.alpha_kl=0.2", "objective.RETAIN.loss=kl", "objective.kl_target=0.05")
    assert remedies == ([f"hold RETAIN by {setting}" for setting in advice] if tone == "bad" else [])


def test_what_puts_a_result_in_doubt_comes_before_what_is_worth_a_look(sections: Sections) -> None:
    change = replace(sections.change, judge_is_triage_judge=True)
    lineage = replace(sections.lineage, noise={"noise flip": 7, "noise swap": 2})
    levels = [warning.level for warning in sections.warned(change=change, lineage=lineage)]
    assert levels == ["bad"] * levels.count("bad") + ["note"] * levels.count("note")
    assert min(levels.count("bad"), levels.count("note")) >= 2
    undecided = replace(sections.gap, overall=Shares("all", {"INVERT": 1, "ABSTAIN": 1}))
    assert sections.warned(gap=undecided, change=change)[0].level == "bad"


@pytest.mark.parametrize(
    ("counts", "rejects", "said"),
    [
        ({"INVERT": 10, "RETAIN": 80, "ABSTAIN": 10}, 1, []),
        ({"INVERT": 10, "RETAIN": 79, "ABSTAIN": 11}, 1, ["The judge could not decide 11 % of the pairs."]),
        ({"RETAIN": 100}, 1, ["No pair conflicts with the new policy: there is nothing to realign."]),
        ({"PUNISH": 1, "RETAIN": 99}, 2, ["2 of 100 rows are refused (2 %): broken_json 2."]),
    ],
)
def test_a_gap_is_doubted_on_the_far_side_of_its_limits_only(
    sections: Sections, counts: Mapping[str, int], rejects: int, said: list[str]
) -> None:
    gap = replace(sections.gap, rows_in=100, rejects=rejects, overall=Shares("all", counts))
    problems = replace(sections.problems, refused=[Refused("triage", "broken_json", rejects, [])])
    found = sections.warned(gap=gap, problems=problems, judge=None, impact=None, change=None)
    assert [warning.text for warning in found] == said
    assert all(warning.level == "bad" for warning in found if "refused" in warning.text)


def test_training_pairs_whose_prompts_are_held_out_are_told_however_few(sections: Sections) -> None:
    gap = replace(sections.gap, rows_in=1000, rejects=1)
    problems = replace(sections.problems, refused=[Refused("triage", "held_out_prompt", 1, [])])
    (found,) = [warning for warning in sections.warned(gap=gap, problems=problems) if "refused" in warning.text]
    assert (found.level, found.text) == ("note", "1 training pairs were refused: their prompts are held out.")


def test_a_share_of_refused_pairs_is_of_all_that_ranked_sets_made(sections: Sections) -> None:
    problems = replace(sections.problems, refused=[Refused("triage", "broken_json", 3, [])])
    for extra, said in ((0, ["3 of 100 rows are refused"]), (150, ["3 of 250 pairs are refused"]), (200, [])):
        gap = replace(sections.gap, rows_in=100, extra=extra, rejects=3)
        warned = sections.warned(gap=gap, problems=problems, judge=None, impact=None, change=None)
        assert [warning.text.partition(" (")[0] for warning in warned if "refused" in warning.text] == said


@pytest.mark.parametrize(
    ("kappa", "said"),
    [(0.8, ""), (0.79, "only moderately"), (0.6, "only moderately"), (0.59, "poorly"), (-0.1, "poorly"), (None, "")],
    ids=["strong", "below", "moderate", "poor", "negative", "none"],
)
def test_less_than_strong_agreement_with_labels_is_said(sections: Sections, kappa: float | None, said: str) -> None:
    audit = replace(sections.audit, figures=dict(sections.audit.figures, kappa=kappa))
    warned = sections.warned(judge=replace(sections.judge, audit=audit), gap=None, impact=None, change=None)
    assert [warning.text for warning in warned] == (
        [f"Judge and labels agree {said} (kappa {kappa:.2f})."] if said and kappa is not None else []
    )
    assert [warning.level for warning in warned] == {"": [], "only moderately": ["note"], "poorly": ["bad"]}[said]


@pytest.mark.parametrize(("unclear", "said"), [(0, False), (16, False), (17, True)])
def test_unreadable_answers_are_said_from_2_percent_of_both_models(
    sections: Sections, unclear: int, said: bool
) -> None:
    """2 % of 400 prompts answered by two models are 16 answers."""
    row = replace(row_of("all", 40, 60, (10.0, 30.0), 5.0), prompts=400)
    change = replace(sections.change, by_category=[row], unclear={"base": unclear, "realigned": 0})
    texts = [warning.text for warning in sections.warned(change=change, gap=None, judge=None, impact=None)]
    assert texts == ([f"{unclear} answers had no readable verdict and count as violating."] if said else [])


@pytest.mark.parametrize(("share", "said"), [(0.49, False), (0.5, True)])
def test_conflicts_of_no_weight_are_said_from_half_of_them(sections: Sections, share: float, said: bool) -> None:
    summary = {"INVERT": dict(sections.impact.summary["INVERT"], share_clamped=share)}
    warned = sections.warned(impact=replace(sections.impact, summary=summary), gap=None, judge=None, change=None)
    assert ["of the conflicts that are backwards have no positive impact" in warning.text for warning in warned] == [
        True
    ] * said
    uniform = replace(sections.impact, summary=summary, weights_kind="uniform")
    assert sections.warned(impact=uniform, gap=None, judge=None, change=None) == []


def test_a_pair_counts_once_with_each_clause_it_breaks(tmp_path: Path) -> None:
    """Both responses of the first pair break "a", its second "b" too; the second pair breaks "a" once."""
    made = MadeRun(tmp_path, rows=2)
    made.triage()
    for number, (chosen, rejected) in enumerate([(["a"], ["a", "b"]), (["a"], [])]):
        row = made.pair(number) | {"clauses_chosen": chosen, "clauses_rejected": rejected}
        place = made.run.triaged.place / f"part-{number}.parquet"
        place.write_parquet(pa.Table.from_pylist([row], schema=TRIAGED_SCHEMA))
    seen = surveys(made.run, config_of()).triaged
    assert seen is not None
    assert clause_shares(seen.clauses) == [Shares("a", {"INVERT": 2}), Shares("b", {"INVERT": 1})]


@pytest.mark.parametrize(("counted", "other", "rate"), [("success", "failure", 20.0), ("failure", "success", 40.0)])
def test_unclear_attacks_are_told_by_the_count_that_was_not_taken(counted: str, other: str, rate: float) -> None:
    figures = {
        "unclear_counts_as": counted,
        "asr": {"base": {"plain": 30.0}, "realigned": {"plain": 30.0}},
        "asr_interval": {"base": {"plain": (10, 50)}, "realigned": {"plain": (10, 50)}},
        "n": {"realigned": {"plain": 10}},
        "unclear": {"base": {"plain": 2}, "realigned": {"plain": 0}},
        f"asr_unclear_{counted}": {"base": {"plain": 30.0}, "realigned": {"plain": 30.0}},
        f"asr_unclear_{other}": {"base": {"plain": rate}, "realigned": {"plain": 30.0}},
    }
    (line,) = attacks(figures)
    assert line.name == f"plain (10 requests, 2 unclear count as {counted})"
    assert line.base.endswith(f", as {other} {rate} %")
    assert line.realigned == "30.0 % (10–50)"  # noqa: RUF001 - a range
