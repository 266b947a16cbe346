"""The report on the judge: its audit, what it was refused for, whose decision triage took."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.report.made_run import AUDIT, MadeRun, config_of
from trace_ray.report.page import render, report_sections
from trace_ray.report.sections.judge import judge_section
from trace_ray.report.sections.lineage import lineage_section
from trace_ray.report.survey.surveys import surveys


def test_the_judge_audit_is_laid_out_as_a_square(made: MadeRun) -> None:
    judge = judge_section(made.run, surveys(made.run, config_of()), config_of().triage)
    assert judge is not None
    assert judge.audit is not None
    assert judge.certainty is not None
    assert judge.audit.names == ["INVERT", "PUNISH", "RETAIN"]
    assert judge.audit.confusion == [[3, 0, 0], [0, 2, 0], [1, 0, 14]]
    assert (sum(judge.certainty.chosen), sum(judge.certainty.rejected), judge.certainty.unreadable) == (18, 20, 2)
    assert judge.certainty.chosen[18] == 6


@pytest.mark.parametrize("missing", ["kappa", "agreement"])
def test_a_figure_that_the_audit_could_not_have_is_left_open(tmp_path: Path, missing: str) -> None:
    made = MadeRun(tmp_path)
    made.triage(AUDIT | {missing: None})
    (card,) = [card for card in report_sections(made.run, config_of())["cards"] if card.anchor == "judge"]
    assert (card.answer, "kappa –." in card.sentence) == {"kappa": ("85.0 %", True), "agreement": ("–", False)}[missing]  # noqa: RUF001 - as tables


def test_rules_are_rules_though_a_model_is_named(tmp_path: Path) -> None:
    """As where a file of settings for a model judge is followed by backend=rules."""
    made = MadeRun(tmp_path)
    made.triage()
    config = config_of("triage.judge.backend=rules", "triage.judge.revision=abc")
    assert ("triage judge", "rules") in lineage_section(made.run, config).models
    (card,) = [card for card in report_sections(made.run, config)["cards"] if card.anchor == "judge"]
    assert (card.answer, card.tone) == ("Exact", "good")
    page = render(made.run, config)
    assert "not audited" not in page
    assert "never compared" not in page


def test_a_refused_judge_is_reported_though_triage_never_finished(tmp_path: Path) -> None:
    made = MadeRun(tmp_path)
    made.run.triaged.begin({})
    (made.run.triaged.place / "audit.json").write_text(
        '{"pairs": 9, "responses": 18, "readable": 1.0, "auc": 0.5, "roc": null, '
        '"accuracy": 0.5, "kappa": 0.0, "agreement": 0.4, "false_invert_rate": null, "confusion": {"RETAIN->INVERT": 9}}'
    )
    page = render(made.run, config_of())
    assert "Refused" in page
    assert "The run stopped here" in page
    assert 'id="gap"' not in page
    assert "every verdict was readable" not in page


def refused(made: MadeRun) -> tuple[str, str]:
    """Returns the judge's card and the first warning of a run that stopped in triage."""
    sections = report_sections(made.run, config_of("triage.min_canary_pass=0.9"))
    (card,) = [card for card in sections["cards"] if card.anchor == "judge"]
    (warning,) = [problem for problem in sections["warnings"] if problem.level == "bad"]
    assert (card.tone, card.answer) == ("bad", "Refused")
    assert "never compared" not in render(made.run, config_of("triage.min_canary_pass=0.9"))
    return card.sentence, warning.text


def test_a_run_stopped_by_its_false_invert_rate_is_no_success(tmp_path: Path) -> None:
    made = MadeRun(tmp_path)
    made.run.triaged.begin({})
    unreached = {"asked": 0.05, "confidence": 0.9, "reached": False, "upper_bound": 0.3}
    (made.run.triaged.place / "audit.json").write_text(json.dumps(AUDIT | {"false_invert": unreached}))
    sentence, warning = refused(made)
    assert sentence == "false INVERT not below 5 % on 20 labelled pairs: the run stopped."
    assert "triage.false_invert_rate" in warning
    assert warning.endswith("The run stopped here.")


def test_a_run_stopped_by_canaries_has_a_report(tmp_path: Path) -> None:
    made = MadeRun(tmp_path)
    made.run.triaged.begin({})
    canaries = {"pass_rate": 0.5, "tried": 24, "unreadable": 0, "by_attack": {"forged_turn": 0.5}}
    (made.run.triaged.place / "work" / "canaries.json").write_text(json.dumps(canaries))
    sentence, warning = refused(made)
    assert sentence == "50 % of hostile texts held: the run stopped."
    assert "the limit is 90 % (triage.min_canary_pass)" in warning
    page = render(made.run, config_of("triage.min_canary_pass=0.9"))
    assert "forged turn" in page
    assert "No labels were given" not in page


def test_a_run_stopped_by_a_judge_that_cannot_be_read_has_a_report(tmp_path: Path) -> None:
    made = MadeRun(tmp_path)
    made.run.triaged.begin({})
    canaries: dict[str, object] = {
        "pass_rate": None,
        "tried": 0,
        "candidates": 32,
        "unreadable": 0,
        "mute": True,
        "by_attack": {},
    }
    (made.run.triaged.place / "work" / "canaries.json").write_text(json.dumps(canaries))
    sentence, warning = refused(made)
    assert sentence == "no readable verdict: the run stopped."
    assert "triage.max_unreadable" in warning


def test_an_audit_after_triage_stops_no_run(tmp_path: Path) -> None:
    made = MadeRun(tmp_path)
    made.triage()
    (made.run.place / "audit.json").write_text(json.dumps(AUDIT | {"auc": 0.5}))
    page = render(made.run, config_of())
    assert "AUC 0.50 on 20 labelled pairs, which triage.min_auc does not allow." in page
    assert "The run stopped here" not in page


DECISION = {"calibration": {"kind": "platt"}, "threshold": 0.7, "band": 0.1}


def test_figures_of_the_held_back_half_are_said_to_be(tmp_path: Path) -> None:
    made = MadeRun(tmp_path)
    made.triage(AUDIT | {"pairs": 40, "checked_pairs": 20})
    page = " ".join(render(made.run, config_of()).split())
    assert (
        "<strong>40</strong> labelled pairs; AUC, ROC and readable over all, the rest over the 20 not used to" in page
    )
    assert "of 20 labelled pairs not used to fit get the label&#39;s category; AUC 0.910 over all 40," in page
    made.run.triaged.place.fs.delete_file((made.run.triaged.place / "audit.json").path)
    (made.run.place / "audit.json").write_text(json.dumps(AUDIT | {"pairs": 40}))  # of an older version
    judge = judge_section(made.run, surveys(made.run, config_of()), config_of().triage)
    assert judge is not None
    assert judge.audit is not None
    assert judge.audit.held_back == 20


def test_an_audit_after_triage_is_shown_as_one(tmp_path: Path) -> None:
    made = MadeRun(tmp_path)
    made.triage()
    (made.run.place / "audit.json").write_text(json.dumps(AUDIT | {"decision": DECISION}))
    judge = judge_section(made.run, surveys(made.run, config_of()), config_of().triage)
    assert judge is not None
    assert (judge.threshold, judge.abstain_band) == (0.5, 0.0)  # what triage used, not what the audit advises
    page = render(made.run, config_of())
    assert "by <code>trace-ray audit</code> after triage" in page
    assert "threshold 0.7, band ± 0.1 and calibration platt, which triage need not have used" in page
    assert "never compared with labels" not in page
    (made.run.triaged.place / "audit.json").write_text(json.dumps(AUDIT | {"pairs": 77, "checked_pairs": 77}))
    judge = judge_section(made.run, surveys(made.run, config_of()), config_of().triage)
    assert judge is not None
    assert judge.audit is not None
    assert (judge.audit.figures["pairs"], judge.audit.afterwards) == (77, False)


def test_a_decision_from_another_audit_is_shown_as_triage_took_it(tmp_path: Path) -> None:
    made = MadeRun(tmp_path)
    made.triage()
    manifest = made.run.triaged.place / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"decision": DECISION}))
    config = config_of("triage.audit_file=runs/first/audit.json")
    judge = judge_section(made.run, surveys(made.run, config), config.triage)
    assert judge is not None
    assert (judge.threshold, judge.abstain_band) == (0.7, 0.1)
    page = render(made.run, config)
    assert "<code>runs/first/audit.json</code>" in page
    assert "never compared with labels" not in page


def test_a_run_stopped_by_what_was_judged_first_says_so(tmp_path: Path) -> None:
    made = MadeRun(tmp_path)
    made.run.triaged.begin({})
    kept = {"judge": "triage.judge", "limit": "triage.max_unreadable", "bound": 0.5, "seen": 0.0, "passed": True}
    broken = kept | {"limit": "triage.max_one_sided", "bound": 0.98, "seen": 1.0, "passed": False}
    texts = {
        "said": "judge m calls 256 of 256 responses compliant (100.0 %)",
        "remedy": "use a judge that tells them apart",
    }
    (made.run.triaged.place / "gates.json").write_text(json.dumps([kept | texts, broken | texts]))
    section = judge_section(made.run, surveys(made.run, config_of()), config_of().triage)
    assert section is not None
    assert section.stopped
    assert section.refusal is not None
    assert section.refusal.text == (
        "Judge m calls 256 of 256 responses compliant (100.0 %); the limit is 0.98 (triage.max_one_sided)."
    )


def test_what_became_of_three_judges_is_told(tmp_path: Path) -> None:
    made = MadeRun(tmp_path)
    made.triage()
    place = made.run.triaged.place / "manifest.json"
    manifest = json.loads(place.read_text())
    skills = {"prevalence": 0.25, "sensitivity": [0.9, 0.8, 0.7], "specificity": [0.95, 0.6, 0.5]}
    others = ["triage.second_judge={model: org/two}", "triage.third_judge={model: org/three}", "triage.third_asked=all"]
    told = {
        "decision": DECISION | {"panel": {"rule": "dawid_skene", "skills": skills}},
        "judges": {"responses": 40, "share": 0.75, "kappa": 0.5},
        "counts": manifest["counts"] | {"judges_differ": 9, "panel_decided": 7},
    }
    place.write_text(json.dumps(manifest | told))
    page = " ".join(render(made.run, config_of(*others, "triage.combine=dawid_skene")).split())
    assert "A second judge agreed on 75.0 % of 40 responses" in page
    assert "of 9 pairs on which judges differ, 7 were decided by what each is worth" in page
    assert '80.0 %</td><td class="number">60.0 %' in page
    assert "25.0 % of the responses violate by that" in page


@pytest.mark.parametrize("by", ["source", "clause"])
def test_error_rates_are_told_by_group(tmp_path: Path, by: str) -> None:
    made = MadeRun(tmp_path)
    row = {by: "short", "pairs": 12, "own": True, "why": "", "band": 0.25, "agreement": 0.9, "false_invert_rate": 0.1}
    few = {by: "", "own": False, "why": "2 violating labelled responses", "upper_bound": 0.4}
    made.triage(AUDIT | {"groups": [row | {"upper_bound": 0.2}, row | few]})
    page = " ".join(render(made.run, config_of()).split())
    assert f"<h3>By {by}</h3>" in page
    assert ("most likely breaks" in page) is (by == "clause")
    assert '<th scope="row">short</th><td class="number">12</td><td>its own</td>' in page
    assert '<th scope="row">none</th><td class="number">12</td><td>of all: 2 violating labelled responses</td>' in page
