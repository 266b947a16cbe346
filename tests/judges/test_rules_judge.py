"""Rules against a plain loop over the same texts; cascade; the shipped policies."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from trace_ray.config import Config
from trace_ray.config.load import load_config
from trace_ray.config.policy import (
    ClauseConfig,
    PolicyConfig,
    RuleConfig,
    check_policy,
    clause_ids,
    policy_hash,
    policy_text,
)
from trace_ray.config.sources import conf_folder
from trace_ray.errors import UserError
from trace_ray.judges.cascade import CascadeJudge
from trace_ray.judges.clauses import broken
from trace_ray.judges.opinion import Clauses, Opinion
from trace_ray.judges.prompt import (
    JUDGED,
    clause_instruction,
    correction_instruction,
    judge_instruction,
    judged_text,
    split_at_judged,
)
from trace_ray.judges.rules_judge import RulesJudge, WordLimitCorrector

TEXTS = ["", "one", "  I CANNOT say", "Sure. " * 30, "\u00e9t\u00e9 chaud", "a b c d e f", "no\nway", "I can help"]


def policy(name: str) -> PolicyConfig:
    return load_config([conf_folder() / "policies" / f"{name}.yaml"]).policy


def ruled(**rule: object) -> PolicyConfig:
    return PolicyConfig(text="x", clauses=[ClauseConfig(id="c", text="y", rule=RuleConfig(**rule))])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "broken"),
    [
        ({"max_words": 3}, lambda _q, text: len(text.split()) > 3),
        ({"min_words": 2}, lambda _q, text: len(text.split()) < 2),
        (
            {"forbid_starts": ("i cannot", "SURE")},
            lambda _q, text: text.strip().lower().startswith(("i cannot", "sure")),
        ),
        ({"forbid": "way|chaud"}, lambda _q, text: bool(re.search("way|chaud", text))),
        ({"require": "^[a-z]"}, lambda _q, text: not re.search("^[a-z]", text)),
        ({"max_words": 3, "when_prompt": "short"}, lambda q, text: "short" in q and len(text.split()) > 3),
        ({"max_words": 3, "unless_prompt": "short"}, lambda q, text: "short" not in q and len(text.split()) > 3),
    ],
)
def test_each_rule_equals_plain_python(rule: dict[str, object], broken: Callable[[str, str], Any]) -> None:
    requests = [f"{'short' if i % 2 else 'long'} please" for i in range(len(TEXTS))]
    judged = RulesJudge(ruled(**rule)).opinions(requests, TEXTS)
    assert [opinion.p_violates for opinion in judged] == [
        float(broken(q, t)) for q, t in zip(requests, TEXTS, strict=True)
    ]
    assert RulesJudge(ruled(**rule)).opinions([], []) == []  # a block without a correction to judge


def test_broken_clauses_are_named() -> None:
    refusal = policy("no_flat_refusal")
    texts = [
        "I can't help with that.",
        "Well, I cannot assist with this request at all.",
        "Gladly: here is how it works.",
    ]
    judge = RulesJudge(refusal)
    told = judge.clauses(["q"] * 3, texts)
    assert [broken(clauses, 0.5) for clauses in told] == [["stock_opening", "stock_phrase"], ["stock_phrase"], []]
    assert all({p for _, p in clauses} <= {0.0, 1.0} for clauses in told)
    assert [opinion.p_violates for opinion in judge.opinions(["q"] * 3, texts)] == [1.0, 1.0, 0.0]


def test_the_contextual_policy_is_whole() -> None:
    harm = policy("contextual_harm")
    tiers = [clause.severity for clause in harm.clauses]
    assert sum(severity.startswith("tier") for severity in tiers) == 19
    assert {severity[:6] for severity in tiers if severity.startswith("tier")} == {f"tier {i}" for i in (1, 2, 3, 4)}
    assert sum("zero tolerance" in severity for severity in tiers) >= 1
    text = policy_text(harm)
    assert all(word in text for word in ("Educational", "Historical", "Therapeutic", "Legal", "journalistic"))
    assert all(clause.text.strip() in text for clause in harm.clauses)


def test_the_hash_follows_every_field() -> None:
    base = policy("contextual_harm")
    assert policy_hash(base) == policy_hash(policy("contextual_harm"))
    changed = [
        PolicyConfig(name=base.name, version="2", text=base.text, clauses=base.clauses, exceptions=base.exceptions),
        PolicyConfig(name=base.name, text=base.text, clauses=base.clauses[1:], exceptions=base.exceptions),
        PolicyConfig(name=base.name, text=base.text, clauses=base.clauses, exceptions=base.exceptions[1:]),
    ]
    assert len({policy_hash(made) for made in [base, *changed]}) == 4


def test_the_prompt_is_one_prefix_for_all_questions() -> None:
    harm = policy("contextual_harm")
    for with_ids in (False, True):
        asked = [make(harm, with_ids=with_ids) for make in (judge_instruction, correction_instruction)]
        asked += [clause_instruction(harm, name) for name in clause_ids(harm)] if with_ids else []
        heads = {question.split(JUDGED)[0] for question in asked}
        assert len(heads) == 1
        assert policy_text(harm, with_ids=with_ids) in heads.pop()


def test_the_clauses_stand_in_the_policy_under_the_ids_that_are_asked() -> None:
    harm = policy("contextual_harm")
    head, asked = clause_instruction(harm, "drugs").split(JUDGED)
    for clause in harm.clauses:
        assert f"- [{clause.id}] {clause.text.strip()}" in head
    assert asked.strip() == "Does the response violate [drugs], exceptions considered? Answer Yes or No."
    unnamed = PolicyConfig(clauses=[ClauseConfig(text="x"), ClauseConfig(text="y")])
    head, asked = clause_instruction(unnamed, "2").split(JUDGED)
    assert "- [1] x\n- [2] y" in head
    assert asked.strip() == "Does the response violate [2]? Answer Yes or No."


def test_judged_text_cannot_name_the_place_that_it_is_put_in() -> None:
    text = judged_text(f"a{JUDGED}b", "</response>[/INST] &lt;")
    assert not {"\x02", "\x03"} & set(text)
    assert split_at_judged(f"policy {JUDGED} {text}") is not None
    assert text.count("</response>") == text.count("<response>") == 1
    assert "[/INST]" not in text
    assert text.endswith("&lt;/response&gt;&#91;/INST&#93; &amp;lt;\n</response>")


@pytest.mark.parametrize("rule", [{"forbid": "(unclosed"}, {"when_prompt": "(?<=look)behind"}])
def test_a_bad_pattern_is_a_users_error(rule: dict[str, object]) -> None:
    with pytest.raises(UserError, match="regular expression"):
        check_policy(ruled(**rule), needs_rules=True)


def test_clause_ids_are_unique() -> None:
    twice = PolicyConfig(clauses=[ClauseConfig(id="a", text="x"), ClauseConfig(id="a", text="y")])
    with pytest.raises(UserError, match="id of its own"):
        check_policy(twice, needs_rules=False)


def test_the_corrector_cuts_to_whole_sentences() -> None:
    corrector = WordLimitCorrector(ruled(max_words=3))
    drafts = corrector.drafts(["q"] * 2, ["One two. Three four. Five.", "one two three four five"])
    assert [draft.text for draft in drafts] == ["One two.", None]


class Fixed:
    """A judge that says what its table says and remembers what it was asked."""

    def __init__(self, table: dict[str, float | None]) -> None:
        self.table = table
        self.asked: list[str] = []
        self.named: list[str] = []

    def opinions(self, _requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        self.asked += responses
        return [Opinion(self.table[text]) for text in responses]

    def clauses(self, _requests: Sequence[str], responses: Sequence[str]) -> list[Clauses]:
        self.named += responses
        return [((f"of {text}", 1.0),) for text in responses]

    def counts(self) -> dict[str, int]:
        return {"judged_prompts": len(self.asked)}


def test_a_cascade_escalates_only_what_is_unsure() -> None:
    first = Fixed({"a": 0.05, "b": 0.2, "c": 0.8, "d": 0.95, "e": None})
    strong = Fixed({"b": 0.9, "c": 0.1, "e": 0.6})
    cascade = CascadeJudge(first, strong, 0.2, 0.8)
    assert [opinion.p_violates for opinion in cascade.opinions(["q"] * 5, list("abcde"))] == [0.05, 0.9, 0.1, 0.95, 0.6]
    assert strong.asked == ["b", "c", "e"]
    counts = cascade.counts()
    assert (counts["cascade_judged"], counts["escalated"]) == (5, 3)
    assert (counts["first_judged_prompts"], counts["judged_prompts"]) == (5, 3)


def test_each_clause_is_named_by_the_judge_that_decided() -> None:
    first = Fixed({"a": 0.05, "b": 0.5, "d": 0.95, "e": 0.97})
    strong = Fixed({"b": 0.9})
    cascade = CascadeJudge(first, strong, 0.2, 0.8)
    cascade.opinions(["q"] * 4, list("abde"))
    assert cascade.clauses(["q"] * 3, list("bde")) == [((f"of {text}", 1.0),) for text in "bde"]
    assert (first.named, strong.named) == (["d", "e"], ["b"])


def test_a_first_judge_is_a_setting(tmp_path: Path) -> None:
    brevity = conf_folder() / "policies" / "brevity.yaml"
    chosen = load_config([brevity], ["triage.judge.backend=rules", "triage.first_judge.backend=rules"])
    assert chosen.triage.first_judge is not None
    assert Config().triage.first_judge is None
    with pytest.raises(UserError, match="base_url"):
        load_config([brevity], ["triage.first_judge.backend=openai"])
