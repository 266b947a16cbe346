"""Colours that cannot lie, and what to do now: figures on both sides of each threshold."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.report.made_run import AUDIT, MadeRun, config_of
from trace_ray.config import ObjectiveConfig
from trace_ray.config.policy import ClauseConfig, RuleConfig
from trace_ray.pairs import CONFLICTS
from trace_ray.report.page import report_sections
from trace_ray.report.sections.change import ChangeRow, ChangeSection, Measured
from trace_ray.report.sections.cost import CostSection
from trace_ray.report.sections.decision import Decision, decision
from trace_ray.report.sections.headline import headline
from trace_ray.report.sections.judge import JudgeAudit, JudgeSection
from trace_ray.report.sections.problems import Problems
from trace_ray.report.sections.trust import answer_judge, corpus_judge
from trace_ray.report.sections.warnings import warnings
from trace_ray.report.sections.worse import Kept, Worse
from trace_ray.runs.damage import FEW_PROMPTS

NOTHING = Problems(known=True, refused=[], judge_errors=[])


def judge_of(**changed: Any) -> JudgeSection:
    """Returns a model judge with strong figures, but for what is ``changed``."""
    figures = AUDIT | changed.pop("figures", {})
    audit = JudgeAudit(figures, 0, False, [], [], [], [])
    plain = JudgeSection("some/judge", 0.5, 0.0, "", 0.7, None, False, audit, None, None, None, None)
    return replace(plain, **({"verdicts": {"violating": 40, "compliant": 60}} | changed))


def change_of(base: float, realigned: float, **changed: Any) -> ChangeSection:
    """Returns an evaluation of 96 prompts, all RETAIN, by another judge than triage's, but for what is ``changed``."""
    before, after = (Measured(value, value - 4, min(100.0, value + 4)) for value in (base, realigned))
    row = ChangeRow("all", 96, before, after, (realigned - base - 3.8, realigned - base + 3.8))
    unclear = {"base": 0, "realigned": 0}
    section = ChangeSection("other/judge", False, [row, replace(row, name="RETAIN")], [], 0, unclear, {}, {})
    return replace(section, **({"drift_measured": True, "target": 90.0} | changed))


@pytest.mark.parametrize(
    ("kappa", "tone"), [(1.0, "good"), (0.8, "good"), (0.799, "warn"), (0.6, "warn"), (0.599, "bad"), (0.0, "bad")]
)
def test_an_audited_judge_is_as_good_as_its_kappa(kappa: float, tone: str) -> None:
    assert corpus_judge(judge_of(figures={"kappa": kappa, "auc": 0.33})).tone == tone


@pytest.mark.parametrize(
    ("violating", "compliant", "tone"),
    [(98, 2, "bad"), (97, 3, "good"), (2, 98, "bad"), (3, 97, "good"), (19, 0, "good")],
)
def test_a_judge_that_says_one_thing_is_not_green(violating: int, compliant: int, tone: str) -> None:
    """98 of 100 responses; of fewer than 20 nothing is said."""
    judge = judge_of(verdicts={"violating": violating, "compliant": compliant})
    assert corpus_judge(judge).tone == tone
    said = [warning.level for warning in warned(judge) if "proves nothing" in warning.text]
    assert said == (["bad"] if tone == "bad" else [])


def warned(judge: JudgeSection, change: ChangeSection | None = None) -> list[Any]:
    lineage = type("NoNoise", (), {"noise": {}})()
    return warnings(
        gap=None,
        judge=judge,
        impact=None,
        change=change,
        problems=NOTHING,
        lineage=lineage,
        objective=ObjectiveConfig(),
    )


@pytest.mark.parametrize(
    ("ruled", "tone", "answer"), [(3, "good", "Exact"), (2, "warn", "In part"), (1, "warn", "In part")]
)
def test_rules_are_exact_only_where_they_check_every_clause(tmp_path: Path, ruled: int, tone: str, answer: str) -> None:
    made = MadeRun(tmp_path)
    made.triage()
    config = config_of("triage.judge.backend=rules")
    clauses = [
        ClauseConfig(id=f"c{i}", text="x", rule=RuleConfig(max_words=9) if i < ruled else None) for i in range(3)
    ]
    config = replace(config, policy=replace(config.policy, clauses=clauses))
    sections = report_sections(made.run, config)
    (card,) = [card for card in sections["cards"] if card.anchor == "judge"]
    assert (card.tone, card.answer) == (tone, answer)
    assert (f"check {ruled} of 3 clauses" in card.sentence) is (ruled < 3)
    assert [warning.level for warning in sections["warnings"] if "No rule checks" in warning.text] == (
        ["bad"] if ruled < 3 else []
    )


@pytest.mark.parametrize(
    ("judge", "same", "tone"),
    [("rules", False, "good"), ("other/judge", False, "warn"), ("some/judge", True, "bad")],
)
def test_the_judge_of_the_answers_has_a_line_of_its_own(judge: str, same: bool, tone: str) -> None:
    change = change_of(50, 95, judge=judge, judge_is_triage_judge=same)
    assert answer_judge(change, judge_of()).tone == tone
    if judge == "rules":
        assert answer_judge(change, judge_of(clauses=3, unchecked=("a",))).tone == "warn"


def test_what_was_not_measured_says_so(tmp_path: Path) -> None:
    made = MadeRun(tmp_path)
    made.triage()
    sections = report_sections(made.run, config_of())
    cards = {card.question: card for card in sections["cards"]}
    assert len(cards) == 7
    open_cards = {question for question, card in cards.items() if card.answer == "Not measured"}
    assert open_cards == {
        "What changed in the model?",
        "Who judged the answers?",
        "Was anything lost?",
        "Which pairs matter?",
    }
    assert {cards[question].tone for question in open_cards} == {"plain"}
    assert decided(made, judge_of(), None).word == "go on"
    assert [check.state for check in sections["decision"].checks[2:]] == ["open"] * 5


def decided(made: MadeRun, judge: JudgeSection | None, change: ChangeSection | None, **sections: Any) -> Decision:
    found = report_sections(made.run, config_of())
    return decision(
        made.run, config_of(), sections.get("gap", found["gap"]), judge, change, sections.get("problems", NOTHING)
    )


@pytest.fixture(scope="module")
def triaged(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    made = MadeRun(tmp_path_factory.mktemp("decided"))
    made.triage()
    return made


@pytest.mark.parametrize(
    ("base", "realigned", "changed", "word", "state"),
    [
        (50, 90, {}, "ship", ("target reached", "pass")),
        (50, 89.9, {}, "fix", ("target reached", "fail")),
        (90, 95, {}, "keep", ("target reached", "pass")),
        (89.9, 95, {}, "ship", ("target reached", "pass")),
        (50, 95, {"judge_is_triage_judge": True}, "fix", ("answer judge independent", "fail")),
        (50, 95, {"drift_measured": False}, "ship", ("drift inside its budget", "open")),
    ],
)
def test_the_decision_follows_the_checks(
    triaged: MadeRun, base: float, realigned: float, changed: Mapping[str, Any], word: str, state: tuple[str, str]
) -> None:
    made = decided(triaged, judge_of(), change_of(base, realigned, **changed))
    assert made.word == word
    assert {check.name: check.state for check in made.checks}[state[0]] == state[1]
    assert bool(made.command) is (word != "keep")
    if made.command:
        assert shlex.split(made.command)


def test_a_target_that_rules_measured_in_part_is_in_doubt(triaged: MadeRun) -> None:
    for unchecked, state in (((), "pass"), (("a",), "doubt")):
        made = decided(triaged, judge_of(clauses=3, unchecked=unchecked), change_of(50, 95, judge="rules"))
        assert {check.name: check.state for check in made.checks}["target reached"] == state
    below = decided(triaged, judge_of(clauses=3, unchecked=("a",)), change_of(50, 80, judge="rules"))
    assert {check.name: check.state for check in below.checks}["target reached"] == "fail"


@pytest.mark.parametrize(
    ("points", "interval", "state", "word"),
    [(-1.0, (-3.0, -0.5), "pass", "ship"), (-1.1, (-3.0, 0.5), "doubt", "ship"), (-1.1, (-3.0, -0.5), "fail", "fix")],
)
def test_a_loss_beyond_a_point_is_a_doubt_and_where_it_is_clear_a_failure(
    triaged: MadeRun, points: float, interval: tuple[float, float], state: str, word: str
) -> None:
    change = change_of(50, 95)
    kept = ChangeRow("RETAIN", 96, Measured(99, 95, 100), Measured(99 + points, 94, 100), interval)
    made = decided(triaged, judge_of(), replace(change, by_category=[change.overall, kept]))
    assert {check.name: check.state for check in made.checks}["nothing lost"] == state
    assert made.word == word
    assert ("objective.alpha_kl=0.2" in made.command) is (word == "fix")


def test_what_was_lost_under_a_target_is_held_by_half_of_it(triaged: MadeRun) -> None:
    """alpha_kl is what the target changes: twice as much would end where it ended."""
    change = change_of(50, 95)
    kept = ChangeRow("RETAIN", 96, Measured(99, 95, 100), Measured(90, 85, 95), (-12.0, -6.0))
    found, config = report_sections(triaged.run, config_of()), config_of("objective.kl_target=0.1")
    lost = replace(change, by_category=[change.overall, kept])
    made = decision(triaged.run, config, found["gap"], judge_of(), lost, NOTHING)
    assert (made.word, "objective.kl_target=0.05" in shlex.split(made.command)) == ("fix", True)
    assert "alpha_kl" not in made.command


@pytest.mark.parametrize(
    ("every", "single", "state"),
    [(FEW_PROMPTS, FEW_PROMPTS, "pass"), (FEW_PROMPTS, FEW_PROMPTS - 1, "doubt"), (FEW_PROMPTS - 1, 5, "fail")],
)
def test_few_prompts_are_a_doubt_in_a_category_and_a_failure_in_all(
    triaged: MadeRun, every: int, single: int, state: str
) -> None:
    change = change_of(50, 95)
    rows = [replace(row, prompts=number) for row, number in zip(change.by_category, (every, single), strict=True)]
    made = decided(triaged, judge_of(), replace(change, by_category=rows))
    assert {check.name: check.state for check in made.checks}["enough prompts"] == state
    already = replace(change, by_category=[replace(row, base=row.realigned) for row in rows])
    assert decided(triaged, judge_of(), already).word == (
        "fix" if state == "fail" else "keep"
    )  # of few nothing is known


def test_a_judge_that_cannot_be_trusted_comes_first(triaged: MadeRun) -> None:
    poor = judge_of(figures={"kappa": 0.0})
    assert decided(triaged, poor, change_of(50, 95)).word == "stop"
    unaudited = decided(triaged, judge_of(audit=None), change_of(50, 95))
    assert (unaudited.word, "trace-ray label sample" in unaudited.command) == ("fix", True)


def test_a_clause_that_no_rule_checks_is_named_with_what_would_check_it(triaged: MadeRun) -> None:
    rules = judge_of(judge="rules", audit=None, clauses=3, unchecked=("kindness",))
    made = decided(triaged, rules, change_of(50, 95, judge="rules"))
    assert made.word == "fix"
    assert "no rule checks kindness" in made.sentence
    assert {"triage.judge.model=JUDGE", "evaluate.judge.model=ANOTHER"} <= set(shlex.split(made.command))
    assert "evaluate" not in decided(triaged, rules, change_of(50, 95)).command
    exact = decided(triaged, judge_of(judge="rules", audit=None, clauses=3), change_of(50, 95, judge="rules"))
    assert exact.word == "ship"


def test_nothing_to_realign_is_said_and_not_trained_on(triaged: MadeRun) -> None:
    gap = report_sections(triaged.run, config_of())["gap"]
    overall = replace(gap.overall, counts={"RETAIN": 20})
    made = decided(triaged, judge_of(), None, gap=replace(gap, overall=overall))
    assert (made.word, made.command) == ("keep", "")
    assert "nothing to realign" in made.sentence


@pytest.mark.parametrize(("perplexity", "said"), [(999.0, 0), (1000.0, 1), (43_000.0, 1)])
def test_advice_fits_what_was_measured(perplexity: float, said: int) -> None:
    """A base that complies is not to be trained longer; one that finds its own answers improbable was not aligned on them."""
    found = warned(judge_of(), change_of(100, 100, base_perplexity=perplexity))
    assert not [warning for warning in found if "train longer" in warning.remedy]
    assert [
        warning.level for warning in found if "There is little" in warning.text or "little to realign" in warning.text
    ] == ["note"]
    assert sum("did not align this model" in warning.text for warning in found) == said
    unclear = warned(judge_of(), change_of(50, 52))
    assert [warning for warning in unclear if "train longer" in warning.remedy]


def test_the_funnel_explains_every_number(tmp_path: Path) -> None:
    """As the parts hold them: 25 rows, 5 refused, 20 pairs of which 6 conflict; impacts 'row - 2', so rows 0-2 weigh 0."""
    made = MadeRun(tmp_path)
    made.everything(AUDIT)
    rows = report_sections(made.run, config_of())["funnel"]
    triaged, scored = (artifact.read().to_pylist() for artifact in (made.run.triaged, made.run.scored))
    conflicts = [row for row in triaged if row["category"] in CONFLICTS]
    trained = [row for row in scored if row["category"] in CONFLICTS and row["weight"] > 0]
    figures = {row.name: row.pairs for row in rows}
    assert figures["Rows read"] - figures["refused"] == figures["Pairs judged"] == len(triaged)
    assert (
        figures["Pairs judged"] - figures["still right"] - figures["unsure"] == figures["Conflicts"] == len(conflicts)
    )
    assert figures["Conflicts"] - figures["held out"] - figures["weight 0"] == figures["Conflicts trained on"]
    assert figures["Conflicts trained on"] == len(trained)


def test_what_got_worse_is_counted_from_the_answers(tmp_path: Path) -> None:
    made = MadeRun(tmp_path, prompts=8)
    made.everything(AUDIT)
    worse = report_sections(made.run, config_of())["worse"]
    answers = [
        row
        for part in (made.run.evaluation.place / "responses").files(".parquet")
        for row in part.read_parquet().to_pylist()
    ]
    models = {
        model: {row["pair_id"]: row for row in answers if row["model"] == model} for model in ("base", "realigned")
    }
    complied = [pair_id for pair_id, row in models["base"].items() if row["compliant"]]
    lost = [pair_id for pair_id in complied if not models["realigned"][pair_id]["compliant"]]
    assert (worse.overall.complied, worse.overall.lost) == (len(complied), len(lost)) == (4, 2)
    assert (worse.overall.same, worse.overall.reworded) == (0, 2)
    assert {row.name: row.lost for row in worse.by_category} == {"INVERT": 0, "RETAIN": 2}
    assert sum(row.prompts for row in worse.by_category) == worse.overall.prompts == 8
    assert json.dumps(list(worse.by_clause)) == "[]"


def kept(name: str, openings: tuple[int, int]) -> Kept:
    return Kept(name, 32, 32, 0, 13, 19, openings, (15.6, 16.0), (0.0, 0.0))


@pytest.mark.parametrize(("openings", "state", "tone"), [((4, 2), "pass", "good"), ((3, 1), "doubt", "warn")])
def test_answers_that_all_open_alike_are_a_loss_that_agreement_does_not_show(
    triaged: MadeRun, openings: tuple[int, int], state: str, tone: str
) -> None:
    """As the demo's: 100 -> 100 % of its benign answers comply, and of three openings one is left."""
    worse = Worse(kept("all answers", (5, 4)), [kept("RETAIN", (5, 3))], [kept("benign", openings)], {})
    change = change_of(50, 95, judge="rules")
    rules = judge_of(judge="rules", audit=None, clauses=3)
    made = decision(triaged.run, config_of(), None, rules, change, NOTHING, worse)
    check = next(check for check in made.checks if check.name == "nothing lost")
    assert (check.state, made.word) == (state, "ship")
    cards = {card.question: card for card in headline(None, rules, None, change, CostSection([], None), worse)}
    assert cards["Was anything lost?"].tone == tone
    poorer = "answers to benign prompts open in 1 way, before in 3"
    assert [poorer in said for said in (check.seen, made.sentence, cards["Was anything lost?"].sentence)] == (
        [state == "doubt"] * 3
    )
    assert ("and nothing was lost" in made.sentence) is (state == "pass")


@pytest.mark.parametrize(
    ("judge", "unchecked", "circular", "tone"),
    [
        ("rules", (), False, "good"),
        ("rules", ("a",), False, "warn"),
        ("other/judge", (), False, "good"),
        ("other/judge", (), True, "warn"),
    ],
)
def test_a_share_is_green_only_where_its_judge_saw_every_clause_and_not_the_corpus(
    judge: str, unchecked: tuple[str, ...], tone: str, *, circular: bool
) -> None:
    change = change_of(50, 95, judge=judge, judge_is_triage_judge=circular)
    change = replace(
        change, by_category=[change.overall, replace(change.by_category[1], base=change.overall.realigned)]
    )
    rules = judge_of(judge="rules", audit=None, clauses=3, unchecked=unchecked)
    cards = {card.question: card for card in headline(None, rules, None, change, CostSection([], None))}
    assert [cards[name].tone for name in ("What changed in the model?", "Was anything lost?")] == [tone, tone]


def test_what_is_shipped_with_a_doubt_is_not_green(triaged: MadeRun) -> None:
    rules = judge_of(judge="rules", audit=None, clauses=3)
    gap = report_sections(triaged.run, config_of())["gap"]
    sure = decision(triaged.run, config_of(), gap, rules, change_of(50, 95, judge="rules"), NOTHING)
    assert (sure.word, sure.sure) == ("ship", True)
    unmeasured = change_of(50, 95, judge="rules", drift_measured=False)
    doubted = decision(triaged.run, config_of(), gap, rules, unmeasured, NOTHING)
    assert (doubted.word, doubted.sure) == ("ship", False)
    assert "drift inside its budget (not measured)" in doubted.sentence


@pytest.mark.parametrize(
    ("mistake", "setting"),
    [
        ("realign.learning_rate: 1.0: too high: use a lower one", " realign.learning_rate=ANOTHER"),
        ("realign.learning_rate", " realign.learning_rate=ANOTHER"),  # where texts are left out, all that is told
        ("pairs.jsonl: no such file: look there", ""),
        ("an engine died", ""),
    ],
)
def test_the_command_after_a_stop_changes_what_stopped_it(triaged: MadeRun, mistake: str, setting: str) -> None:
    made = decided(triaged, judge_of(), None, problems=replace(NOTHING, stopped={"realign": mistake}))
    assert made.word == "fix"
    assert made.command.endswith(f"config.yaml{setting} --run {triaged.run.shell_word}")
