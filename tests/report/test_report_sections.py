"""Each section's figures against figures worked out by hand or by another library."""

from __future__ import annotations

import json
import shlex
import warnings
from dataclasses import replace
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from tests.report.made_run import AUDIT, MadeRun, config_of
from trace_ray.config import StorageConfig
from trace_ray.errors import UserError
from trace_ray.report.page import render, report_sections
from trace_ray.report.plots.change import change_picture
from trace_ray.report.redact import excerpt
from trace_ray.report.sections.answers import answers_section
from trace_ray.report.sections.change import change_section
from trace_ray.report.sections.cost import cost_section
from trace_ray.report.sections.gap import Shares, gap_section, largest
from trace_ray.report.sections.judge import judge_section
from trace_ray.report.sections.lineage import lineage_section
from trace_ray.report.sections.problems import problems_section
from trace_ray.report.sections.training import thinned, training_caption, training_section
from trace_ray.report.survey.surveys import surveys
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate


def test_the_gap_counts_every_pair_once(made: MadeRun) -> None:
    gap = gap_section(made.run, surveys(made.run, config_of()))
    assert gap is not None
    assert (gap.rows_in, gap.rejects, gap.overall.total, gap.overall.conflicts) == (25, 5, 20, 6)
    assert gap.overall.counts == {"INVERT": 4, "PUNISH": 2, "RETAIN": 12, "ABSTAIN": 2}
    assert sum(source.total for source in gap.by_source) == 20
    assert gap.overall.percent("PUNISH") == 10.0


def test_an_omitted_text_is_not_even_held() -> None:
    omitted, hidden, shown = (excerpt("abcdef", mode, limit=4) for mode in ("omit", "hide", "none"))
    assert omitted is not None
    assert hidden is not None
    assert shown is not None
    assert (omitted.text, omitted.characters, omitted.cut) == ("", 6, False)
    assert (hidden.text, hidden.cut, shown.text, shown.cut) == ("abcd", True, "abcd", True)
    assert excerpt(None, "none") is None


def test_many_sources_become_the_largest_and_the_rest() -> None:
    groups = [Shares(f"s{i}", {"RETAIN": i, "INVERT": 1}) for i in range(30)]
    shown = largest(groups, keep=5)
    assert [group.name for group in shown] == ["s29", "s28", "s27", "s26", "s25", "25 other sources"]
    assert sum(group.total for group in shown) == sum(group.total for group in groups)


def test_before_and_after_by_category(made: MadeRun) -> None:
    change = change_section(made.run)
    assert change is not None
    assert [row.name for row in change.by_category] == ["all", "INVERT", "RETAIN"]
    assert [row.change for row in change.by_category] == [25.0, 100.0, -50.0]
    assert [row.clear for row in change.by_category] == [False, True, False]
    assert change.by_source == []
    assert change.by_category[1].said() == "+100.0 (39.8 to 100.0)"
    assert change.by_category[2].said() == "-50.0 (-100.0 to 0.0), unclear"
    page = render(made.run, config_of())
    assert change.by_category[2].said() in page
    assert change.overall.said(" points") in page


def test_only_the_largest_sources_are_shown_and_a_long_name_leaves_the_plot_its_room(tmp_path: Path) -> None:
    made = MadeRun(tmp_path, prompts=30, answer_sources=("large", *(f"{i} " + "x" * 128 for i in range(13)), "large"))
    made.everything()
    change = change_section(made.run)
    assert change is not None
    assert [row.name[:5] for row in change.by_source[:3]] == ["all", "large", "0 xxx"]
    assert (len(change.by_source), change.more_sources) == (13, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns where names leave a plot no room
        drawn = change_picture(change.by_source, "source")
    assert "x" * 27 + "…" in drawn.wide
    assert "x" * 28 not in drawn.wide


def test_a_sources_change_has_its_own_interval_where_one_was_stored(tmp_path: Path) -> None:
    made = MadeRun(tmp_path, prompts=30, answer_sources=("one", "two"))
    made.everything()
    place = made.run.evaluation.place / "metrics.json"
    metrics = json.loads(place.read_text())
    change = change_section(made.run)
    assert change is not None
    stored = {row.name: row.difference for row in change.by_source}
    assert stored == {name: tuple(by_source["interval"]) for name, by_source in metrics["tpa_change_by_source"].items()}
    assert "no interval of the change was stored" not in render(made.run, config_of())
    del metrics["tpa_change_by_source"]
    place.write_text(json.dumps(metrics))
    older = change_section(made.run)
    assert older is not None
    assert [row.said() for row in older.by_source] == [f"{row.change:+.1f}, unclear" for row in change.by_source]
    assert "no interval of the change was stored" in render(made.run, config_of())


def test_every_kind_of_answer_is_shown_early_and_lost_ones_first(made: MadeRun) -> None:
    answers = answers_section(made.run, config_of("report.examples=4"))
    assert [answer.verdict for answer in answers] == ["lost", "lost", "gained", "still complies"]
    assert [a.verdict for a in answers_section(made.run, config_of())].count("gained") == 4


def test_curves_are_thinned_by_means_and_empty_ones_left_out(made: MadeRun) -> None:
    training = training_section(made.run, config_of().objective, 1)
    assert training is not None
    assert set(training.curves) == {"mean loss of a pair", "mean margin (implicit reward)", "learning rate"}
    assert training.curves["mean loss of a pair"] == {"INVERT": [(i, 1.0 / i) for i in range(1, 6)]}
    assert training.trained == {"INVERT": 10, "PUNISH": 0, "RETAIN": 30}
    assert training.caption in render(made.run, config_of())
    long = thinned([(float(i), float(i % 2)) for i in range(10_000)], points=100)
    assert len(long) == 100
    assert {value for _, value in long} == {0.5}


def test_the_caption_of_training_follows_the_losses() -> None:
    trace = training_caption(config_of().objective, margin=True)
    assert "fall for backwards, both wrong." in trace
    assert "near 0 for still right: it is the KL" in trace
    assert "A margin is relative to the reference" in trace
    relabelled = config_of(
        "objective.PUNISH.loss=skip", "objective.RETAIN.loss=dpo", "objective.RETAIN.suppress=[rejected]"
    )
    assert training_caption(relabelled.objective, margin=False) == "Loss should fall for backwards, still right."


def test_costs_are_those_of_the_manifests(made: MadeRun) -> None:
    cost = cost_section(made.run)
    assert [(s.stage, s.seconds, s.tokens) for s in cost.stages] == [
        ("triage", 10, 12345),
        ("impact", 20, 777),
        ("realign", 40, 500),
        ("evaluate", 50, 333),
    ]
    assert cost.seconds == 120
    assert cost.worker_gib == 2.5
    page = render(made.run, config_of())
    assert "13,955 tokens were counted in triage, impact, realign, evaluate." in page
    assert "driver's node; one training worker, on whichever node, held up to 2.5 GiB" in page


@pytest.mark.parametrize(
    ("used", "tokens"),
    [
        ({"endpoint_tokens": 70, "requests": 9, "retries": 2}, 70),
        ({"judged_tokens": 50, "first_judged_tokens": 4, "second_endpoint_tokens": 3, "prefix_cache_hits": 8}, 57),
        ({}, None),
    ],
)
def test_every_judges_tokens_are_a_cost(tmp_path: Path, used: dict[str, int], tokens: int | None) -> None:
    made = MadeRun(tmp_path, used=used)
    made.triage()
    cost = cost_section(made.run)
    assert (cost.stages[0].tokens, cost.worker_gib) == (tokens, None)
    (card,) = [card for card in report_sections(made.run, config_of())["cards"] if card.anchor == "cost"]
    assert ("tokens" in card.sentence) == (tokens is not None)


def test_refused_rows_come_with_examples_and_their_line(made: MadeRun) -> None:
    problems = problems_section(made.run, surveys(made.run, config_of()), "none")
    assert [(r.reason, r.rows, len(r.examples)) for r in problems.refused] == [
        ("broken_json", 4, 3),
        ("empty_field", 1, 1),
    ]
    source, line, detail = problems.refused[0].examples[1]
    assert (source, line) == ("bad.jsonl", 2)
    assert detail is not None
    assert "SECRET bad 1" in detail.text
    assert [(error.kind, error.pairs) for error in problems.judge_errors] == [("unreadable", 2)]


def test_the_lineage_names_policy_data_models_and_command(made: MadeRun) -> None:
    lineage = lineage_section(made.run, config_of())
    assert lineage.corpus == [("pairs.jsonl (train)", "abcd")]
    assert ("triage judge", "some/judge") in lineage.models
    assert [link.name for link in lineage.links] == ["triaged", "impact", "scored", "realign", "model", "evaluation"]
    assert lineage.command.startswith("trace-ray run -c ")


def test_every_judge_of_triage_is_named(made: MadeRun) -> None:
    more = [f"triage.{name}_judge.model=some/{name}" for name in ("first", "second", "corrector")]
    models = lineage_section(made.run, config_of(*more)).models
    for name in ("first", "second", "corrector"):
        assert (f"triage {name} judge", f"some/{name}") in models


def test_labels_damaged_on_purpose_are_disclosed(tmp_path: Path) -> None:
    made = MadeRun(tmp_path)
    made.triage()
    made.impact()
    assert "damaged on purpose" not in render(made.run, config_of())
    manifest = made.run.scored.place / "manifest.json"
    noise = {"noise flip": 1200, "noise swap": 34}
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"noise": noise}))
    (said,) = [
        warning for warning in report_sections(made.run, config_of())["warnings"] if "on purpose" in warning.text
    ]
    assert said.level == "bad"
    assert said.text.startswith("The labels of 1,234 training rows were damaged")
    assert said.text.endswith("1,200 by flip, 34 by swap.")


def test_a_run_in_s3_is_made_again_from_the_configuration_on_the_page(tmp_path: Path) -> None:
    """Its config.yaml is no local file, which -c wants; a folder's name may hold a blank."""
    place = replace(
        locate(str(tmp_path / "a run"), StorageConfig()), fs=pafs.SubTreeFileSystem("/", pafs.LocalFileSystem())
    )
    assert "s3://" not in (command := lineage_section(Run(place), config_of()).command)
    assert command.splitlines()[1].startswith("trace-ray run -c again.yaml ")
    local = lineage_section(Run(locate(place.path, StorageConfig())), config_of()).command
    assert shlex.split(local)[:4] == ["trace-ray", "run", "-c", f"{place.path}/config.yaml"]


def test_what_puts_the_result_in_doubt_is_said(made: MadeRun) -> None:
    said = " ".join(warning.text for warning in report_sections(made.run, config_of())["warnings"])
    for part in (
        "60 % of the conflicts that are backwards",
        "5 of 25 rows",
        "Fewer than 30",
        "Still right: compliance",
    ):
        assert part in said, part
    assert "could not decide" not in said
    assert "never compared with labels" not in said
    assert "judge of triage" not in said
    place = made.run.evaluation.place / "metrics.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"judge_is_triage_judge": True}))
    said = " ".join(warning.text for warning in report_sections(made.run, config_of())["warnings"])
    assert "The judge of these answers is the judge of triage" in said


def test_stages_that_are_not_done_are_left_out(tmp_path: Path) -> None:
    made = MadeRun(tmp_path)
    with pytest.raises(UserError, match="nothing to report"):
        render(made.run, config_of())
    made.triage()
    page = render(made.run, config_of())
    assert 'id="gap"' in page
    assert "never compared with labels" in page
    for absent in ("impact", "training", "change", "answers"):
        assert f'id="{absent}"' not in page
        assert f'href="#{absent}"' not in page
    made.impact()
    assert 'id="impact"' in render(made.run, config_of())


def test_what_later_stages_store_is_shown(tmp_path: Path) -> None:
    """The names are those of triage's audit.json and manifest, evaluation's metrics.json, the pipeline's resources.json."""
    made = MadeRun(tmp_path)
    rows = [
        {"from": 0.0, "to": 0.1, "responses": 30, "said": 0.05, "share": 0.1},
        {"from": 0.9, "to": 1.0, "responses": 10, "said": 0.95, "share": 0.7},
    ]
    decision = {"calibration": {"kind": "platt"}, "threshold": 0.6, "band": 0.05}
    bound = {"asked": 0.1, "confidence": 0.9, "reached": True, "upper_bound": 0.08}
    more = {"reliability": rows, "ece": 0.09, "ece_uncalibrated": 0.2, "coverage": 0.9, "decision": decision}
    made.everything(AUDIT | more | {"false_invert": bound})
    manifest = made.run.triaged.place / "manifest.json"
    canaries = {"pass_rate": 0.75, "tried": 24, "unreadable": 1, "by_attack": {"forged_turn": 0.5, "spanish": None}}
    judges = {"share": 0.9, "kappa": 0.7, "responses": 40}
    stored = json.loads(manifest.read_text()) | {"canaries": canaries, "judges": judges, "escalated_share": 0.3}
    manifest.write_text(json.dumps(stored))
    (made.run.scored.place / "resources.json").write_text(json.dumps({"peak_memory_bytes": 3 << 30}))
    place = made.run.evaluation.place / "metrics.json"
    rates = {"base": {"plain": 40.0}, "realigned": {"plain": 10.0}}
    intervals = {model: {"plain": [5.0, 50.0]} for model in rates}
    n = {model: {"plain": 20} for model in rates}
    step = {"run": "runs/first", "policy": {"name": "old", "version": "3"}, "method": "trace"}
    metrics = {
        "tpa_interval": {m: {g: [10.0, 90.0] for g in ("all", "INVERT", "RETAIN")} for m in rates},
        "tpa_change": {"all": {"change": 25.0, "interval": [5.0, 45.0]}},
        "attacks": {"asr": rates, "asr_interval": intervals, "n": n, "unclear": n, "unclear_counts_as": "success"}
        | {"asr_unclear_failure": {"base": {"plain": 30.0}, "realigned": {"plain": 0.0}}},
        "drift": {"kl_to_base": 0.0123, "ppl_base": 3.0, "ppl_realigned": 3.5, "drift_tokens": 10.0},
        "capability": {m: {"results": {"mmlu": {"acc": {"value": 0.7, "stderr": 0.01}}}} for m in rates},
        "lineage": [step | {"tpa": None}, step | {"run": "runs/second", "tpa": {"base": 12.0, "realigned": 95.5}}],
    }
    place.write_text(json.dumps(json.loads(place.read_text()) | metrics))
    change = change_section(made.run)
    assert change is not None
    assert (change.overall.base.low, change.overall.clear) == (10.0, True)
    (attack,) = next(lines for title, lines in change.other.items() if title.startswith("Attacks"))
    assert attack.realigned == "10.0 % (5–50), as failure 0.0 %"  # noqa: RUF001 - a range
    judge = judge_section(made.run, surveys(made.run, config_of()), config_of().triage)
    assert judge is not None
    assert judge.audit is not None
    assert (judge.threshold, judge.abstain_band) == (0.6, 0.05)
    assert judge.audit.roc == [(0.0, 0.0), (0.1, 0.7), (1.0, 1.0)]
    assert cost_section(made.run).stages[1].peak_gib == 3.0
    page = render(made.run, config_of())
    for text in (
        "forged turn",
        "0.0123",
        "40.0 % (5\u201350)",
        "mmlu acc",
        "0.700 ± 0.010",
        "runs/first",
        "runs/second",
        "12.0 → 95.5 %",
        "it is the reference of the scores and of the KL",
        "8.0 %",
        "30.0 %",
    ):
        assert text in page, text
