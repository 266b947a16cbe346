"""The judge for policies that code can decide: exact, vectorised over a block of rows."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.policy import PolicyConfig, RuleConfig

_SENTENCE_END = re.compile(r"[.!?][\"')\]]*(?=\s|$)")


def words(texts: pa.Array) -> pa.Array:
    """Returns the number of whitespace-separated words of each text."""
    trimmed = pc.utf8_trim_whitespace(texts)
    counted = pc.list_value_length(pc.utf8_split_whitespace(trimmed))
    return pc.if_else(pc.equal(trimmed, ""), 0, counted)


def violates(policy: PolicyConfig, prompts: pa.Array, responses: pa.Array) -> pa.Array:
    """Returns for each response whether any clause's rule is broken, as a boolean array."""
    broken = pa.array([False] * len(responses))
    for clause in policy.clauses:
        if clause.rule is not None:
            broken = pc.or_(broken, _broken(clause.rule, prompts, responses))
    return broken


def _broken(rule: RuleConfig, prompts: pa.Array, responses: pa.Array) -> pa.Array:
    applies: Any = pa.array([True] * len(responses))
    if rule.when_prompt:
        applies = pc.match_substring_regex(prompts, rule.when_prompt)
    if rule.unless_prompt:
        applies = pc.and_(applies, pc.invert(pc.match_substring_regex(prompts, rule.unless_prompt)))
    wrong: Any = pa.array([False] * len(responses))
    if rule.max_words:
        wrong = pc.or_(wrong, pc.greater(words(responses), rule.max_words))
    if rule.forbid:
        wrong = pc.or_(wrong, pc.match_substring_regex(responses, rule.forbid))
    if rule.require:
        wrong = pc.or_(wrong, pc.invert(pc.match_substring_regex(responses, rule.require)))
    return pc.and_(applies, wrong)


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
