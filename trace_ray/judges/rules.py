"""The judge for policies that code can decide: exact, vectorised over a block of rows."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.config.policy import PolicyConfig, RuleConfig, clause_ids

_SENTENCE_END = re.compile(r"[.!?][\"')\]]*(?=\s|$)")


def words(texts: pa.Array) -> pa.Array:
    """Returns the number of whitespace-separated words of each text."""
    trimmed = pc.utf8_trim_whitespace(texts)
    counted = pc.list_value_length(pc.utf8_split_whitespace(trimmed))
    return pc.if_else(pc.equal(trimmed, ""), 0, counted)


def violates(policy: PolicyConfig, prompts: pa.Array, responses: pa.Array) -> pa.Array:
    """Returns for each response whether any clause's rule is broken, as a boolean array."""
    broken = _none_of(responses)
    for clause in broken_clauses(policy, prompts, responses).values():
        broken = pc.or_(broken, clause)
    return broken


def broken_clauses(policy: PolicyConfig, prompts: pa.Array, responses: pa.Array) -> dict[str, pa.Array]:
    """Returns {clause's id: for each response, whether it breaks that clause} of the clauses that have a rule."""
    named = zip(clause_ids(policy), policy.clauses, strict=True)
    return {name: _broken(clause.rule, prompts, responses) for name, clause in named if clause.rule is not None}


def _broken(rule: RuleConfig, prompts: pa.Array, responses: pa.Array) -> pa.Array:
    wrong = _none_of(responses)
    if rule.max_words:
        wrong = pc.or_(wrong, pc.greater(words(responses), rule.max_words))
    if rule.min_words:
        wrong = pc.or_(wrong, pc.less(words(responses), rule.min_words))
    if rule.forbid_starts:
        lowered = pc.utf8_lower(pc.utf8_ltrim_whitespace(responses))
        for start in rule.forbid_starts:
            wrong = pc.or_(wrong, pc.starts_with(lowered, start.lower()))
    if rule.forbid:
        wrong = pc.or_(wrong, pc.match_substring_regex(responses, rule.forbid))
    if rule.require:
        wrong = pc.or_(wrong, pc.invert(pc.match_substring_regex(responses, rule.require)))
    return pc.and_(wrong, applies(rule, prompts))


def applies(rule: RuleConfig, prompts: pa.Array) -> Any:
    """Returns for each prompt whether the rule looks at it."""
    looked = pa.array([True] * len(prompts), pa.bool_())
    if rule.when_prompt:
        looked = pc.and_(looked, pc.match_substring_regex(prompts, rule.when_prompt))
    if rule.unless_prompt:
        looked = pc.and_(looked, pc.invert(pc.match_substring_regex(prompts, rule.unless_prompt)))
    return looked


def _none_of(responses: pa.Array) -> Any:
    """False for each response; of no response a boolean array too, where pyarrow alone would make one of nulls."""
    return pa.array([False] * len(responses), pa.bool_())


def word_limit(policy: PolicyConfig) -> int:
    """Returns the tightest max_words of the policy's rules, 0 where there is none."""
    limits = [c.rule.max_words for c in policy.clauses if c.rule is not None and c.rule.max_words]
    return min(limits, default=0)


def cut_to_words(text: str, limit: int) -> str | None:
    """Returns the text up to its last sentence end within ``limit`` words; None where no sentence ends there.

    >>> cut_to_words("One two. Three four. Five.", 3)
    'One two.'
    """
    matches = list(re.finditer(r"\S+", text))
    if len(matches) <= limit:
        return text
    head = text[: matches[limit - 1].end()]
    ends = [match.end() for match in _SENTENCE_END.finditer(head)]
    return head[: ends[-1]].strip() if ends else None
