"""The policy as it changed, clause by clause, against the run's parts counted by hand."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from tests.report.made_run import AUDIT, MadeRun, config_of
from trace_ray.config import Config
from trace_ray.config.load import dump_config, load_config, load_text
from trace_ray.config.policy import ClauseConfig, PreviousConfig, RuleConfig, policy_hash, policy_text
from trace_ray.config.sources import conf_folder
from trace_ray.look.words import MOST_WORDS, word_diff
from trace_ray.pairs import CONFLICTS, RESPONSE_SCHEMA, prompt_text
from trace_ray.report.page import render
from trace_ray.report.sections.answers import answers_section
from trace_ray.report.sections.browser import browser_section
from trace_ray.report.sections.clauses import of_each
from trace_ray.report.sections.policy import PolicySection, clause_changes, policy_section
from trace_ray.report.survey.surveys import surveys

WORDS = 6


def changed_config(*overrides: str) -> Config:
    """Returns a policy of two clauses, one of them with a rule, after one of three."""
    config = config_of(*overrides)
    old = [("short", "At most 500 words."), ("greet", "It greets."), ("kind", "It is  kind.")]
    previous = PreviousConfig(name="chatty", version="3", clauses=[ClauseConfig(id=i, text=t) for i, t in old])
    clauses = [
        ClauseConfig(id="short", text="At most 6 words.", rule=RuleConfig(max_words=WORDS)),
        ClauseConfig(id="kind", text="It is kind."),
        ClauseConfig(id="true", text="It is true."),
    ]
    return replace(config, policy=replace(config.policy, previous=previous, clauses=clauses))


def section_of(made: MadeRun, config: Config) -> PolicySection:
    return policy_section(made.run, surveys(made.run, config), config)


def test_a_clause_is_kept_changed_new_or_dropped() -> None:
    policy = changed_config().policy
    assert [(name, state) for name, state, _ in clause_changes(policy, policy.previous)] == [
        ("short", "changed"),
        ("kind", "kept"),
        ("true", "new"),
        ("greet", "dropped"),
    ]
    assert {state for _, state, _ in clause_changes(policy, None)} == {""}


def test_a_diff_holds_every_word_of_both_texts() -> None:
    before, after = "never explain it to anyone at all", "always explain it to those at school"
    pieces = word_diff(before, after)
    for text, gone in ((before, "new"), (after, "gone")):
        assert " ".join(piece.text for piece in pieces if piece.kind != gone) == text
    assert {piece.text for piece in pieces if piece.kind == "same"} == {"explain it to", "at"}
    long = " ".join(map(str, range(MOST_WORDS + 1)))
    assert [piece.kind for piece in word_diff(long, "0 1")] == ["gone", "new"]
    assert word_diff("", "") == []


def test_the_previous_policy_changes_no_verdict_and_is_kept_with_the_run() -> None:
    plain, changed = config_of().policy, changed_config().policy
    assert policy_hash(replace(plain, previous=changed.previous)) == policy_hash(plain)
    assert "greets" not in policy_text(changed)
    demo = load_config(
        [conf_folder() / "policies" / "synth_new.yaml"], ["model.path=some/model", "triage.judge.model=x"]
    )
    assert demo.policy.previous is not None
    assert load_text(dump_config(demo), "again").policy == demo.policy
    old = load_config(
        [conf_folder() / "policies" / "synth_old.yaml"], ["model.path=some/model", "triage.judge.model=x"]
    )
    told = [(clause.id, clause.text) for clause in demo.policy.previous.clauses]
    assert told == [(clause.id, clause.text) for clause in old.policy.clauses]


def test_a_clause_is_counted_from_the_parts(tmp_path: Path) -> None:
    """Words are counted as Python splits them; the rule is the policy's only one, so the other clauses tell nothing."""
    made = MadeRun(tmp_path)
    made.everything(AUDIT)
    section = section_of(made, changed_config())
    rows = {row.name: row for row in section.rows}
    wanted: Counter[tuple[str, str]] = Counter()
    for row in made.run.triaged.read().to_pylist():
        wanted[row["split"], row["category"]] += any(len(row[side].split()) > WORDS for side in ("chosen", "rejected"))
    assert rows["short"].counts == {key: number for key, number in wanted.items() if number}
    assert rows["short"].pairs() == sum(wanted.values()) > 0
    assert (rows["kind"].counts, rows["greet"].counts, section.by_rules) == (None, None, True)
    answers = [
        r for p in (made.run.evaluation.place / "responses").files(".parquet") for r in p.read_parquet().to_pylist()
    ]
    for at, model in enumerate(("base", "realigned")):
        mine = [len(row["response"].split()) <= WORDS for row in answers if row["model"] == model]
        assert rows["short"].kept is not None
        assert rows["short"].kept[at] == pytest.approx(100 * sum(mine) / len(mine))
    asked = {prompt_text(row["prompt"])[:20] for row in made.run.triaged.read().to_pylist()}
    assert all(prompt is not None and prompt.text[:20] in asked for _, prompt, _ in rows["short"].examples)


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (["PUNISH", "PUNISH", "INVERT"], [0, 2]),
        (["PUNISH", "INVERT", "PUNISH"], [0, 1]),
        (["RETAIN", "INVERT", "INVERT", "ABSTAIN"], [1, 2]),
    ],
)
def test_each_category_of_conflict_is_seen_before_a_second_example_of_one(found: list[str], shown: list[int]) -> None:
    kinds = [[(row,) for row, category in enumerate(found) if category == kind] for kind in CONFLICTS]
    assert of_each(kinds) == [(row,) for row in shown]


def test_labels_say_how_often_a_clause_was_seen_right(tmp_path: Path) -> None:
    made = MadeRun(tmp_path)
    made.triage()
    labels = tmp_path / "labels.jsonl"
    rows = [row for row in made.run.triaged.read().to_pylist() if len(row["chosen"].split()) > WORDS][:4]
    right = {"INVERT": (True, False), "PUNISH": (True, True), "RETAIN": (False, True), "ABSTAIN": (False, True)}
    lines = [
        dict(zip(("violates_chosen", "violates_rejected"), right[row["category"]], strict=True))
        | {"pair_id": row["pair_id"]}
        for row in rows
    ]
    labels.write_text("".join(json.dumps(line) + "\n" for line in lines))
    section = section_of(made, changed_config(f"triage.audit_labels={labels}"))
    agreed = sum(row["category"] != "ABSTAIN" for row in rows)
    assert section.rows[0].agreement == (agreed, len(rows))
    labels.unlink()
    assert section_of(made, changed_config(f"triage.audit_labels={labels}")).rows[0].agreement is None


def test_the_page_shows_what_changed(tmp_path: Path) -> None:
    made = MadeRun(tmp_path)
    made.triage()
    page = render(made.run, changed_config())
    for said in ("<del>500</del>", "<ins>6</ins>", "1 clause changed", "since “chatty”, version 3"):
        assert said in page, said
    assert "is not known to the run" in render(made.run, config_of())
    assert "SECRET" not in render(made.run, changed_config("report.redact=omit"))


def test_pairs_and_answers_are_found_by_the_clause_that_they_break(tmp_path: Path) -> None:
    """Where the judge was not asked for clauses, by the policy's rules; a clause without one as the judge of answers says."""
    made = MadeRun(tmp_path, rows=20, prompts=12)
    run = made.everything()
    config = config_of()
    ruled = [
        ClauseConfig(id="no-ones", text="No number from 10 to 19.", rule=RuleConfig(forbid=r"SECRET \w+ 1\d")),
        ClauseConfig(id="base-only", text="", rule=RuleConfig(forbid="base 1 ")),
        ClauseConfig(id="silent", text="Be kind."),
    ]
    config = replace(config, policy=replace(config.policy, clauses=ruled))
    browser = browser_section(run, surveys(run, config), config, 0.5)
    assert browser is not None
    assert {pair.pair_id: pair.clauses for pair in browser.pairs} == {
        f"{row:032x}": ["no-ones"] if row >= 10 else [] for row in range(20)
    }
    (part,) = (run.evaluation.place / "responses").files()
    rows = part.read_parquet().to_pylist()
    for row in rows:
        row["clause_p"] = [{"clause": "silent", "p": 0.9 if row["pair_id"] == f"{3:032x}" else 0.1}]
    part.write_parquet(pa.Table.from_pylist(rows, schema=RESPONSE_SCHEMA))
    answers = {int(pair.prompt.text.split()[2]): pair for pair in answers_section(run, config) if pair.prompt}
    assert [answers[row].clauses for row in (1, 2, 3, 10)] == [["base-only"], [], ["silent"], ["no-ones"]]
    assert (answers[1].base.clauses, answers[1].realigned.clauses) == (["base-only"], [])
    page = render(run, config)
    assert page.count("<label>Clause <select") == 2
    assert 'data-clauses="base-only"' in page
    unruled = render(run, replace(config, policy=replace(config.policy, clauses=ruled[2:])))
    assert unruled.count("<label>Clause <select") == 1  # of the answers alone: nobody told of the pairs
