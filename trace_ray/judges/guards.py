"""Guard models that judge a dialogue in their own words: a row each of what their templates take and their answers mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trace_ray.config.policy import PolicyConfig, clause_ids, policy_text

REQUEST, RESPONSE = "\x02REQUEST\x03", "\x02RESPONSE\x03"
"""Stand for the two texts while the template is rendered."""
DIALOGUE = [{"role": "user", "content": REQUEST}, {"role": "assistant", "content": RESPONSE}]


@dataclass(frozen=True)
class GuardModel:
    """One kind of guard model.

    Args:
        violates, complies: its answer words.
        begins: what it writes before them.
        variable: of its template, which takes the policy; without one there it judges by the policy that it was trained on.
        by_clause: the variable takes {number: clause}, not a text.
    """

    violates: tuple[str, ...]
    complies: tuple[str, ...]
    begins: str = ""
    variable: str = ""
    by_clause: bool = False

    def variables(self, policy: PolicyConfig, known: frozenset[str]) -> dict[str, Any]:
        """Returns the template's variables that say the policy; ``known``: those that it reads."""
        if not self.variable or self.variable not in known:
            return {}
        return {self.variable: _numbered(policy) if self.by_clause else policy_text(policy)}


def _numbered(policy: PolicyConfig) -> Mapping[str, str]:
    """The clauses under the codes that Llama Guard was taught; of a policy without clauses its text."""
    texts = [f"{name}: {clause.text.strip()}" for name, clause in zip(clause_ids(policy), policy.clauses, strict=True)]
    said = [f"{text} Not: {' '.join(policy.exceptions)}" if policy.exceptions else text for text in texts]
    return {f"S{number}": text for number, text in enumerate(said or [policy_text(policy)], 1)}


GUARDS: Mapping[str, GuardModel] = {
    # Its first token is a blank line; `unsafe` is followed by the codes of the categories.
    "llama_guard": GuardModel(
        violates=("unsafe",), complies=("safe",), begins="\n\n", variable="categories", by_clause=True
    ),
    "shieldgemma": GuardModel(violates=("Yes",), complies=("No",), variable="guideline"),
    # `Safety: Safe | Unsafe | Controversial`; what is controversial counts as a violation, its strict reading.
    "qwen3guard": GuardModel(violates=(" Unsafe", " Controversial"), complies=(" Safe",), begins="Safety:"),
}
