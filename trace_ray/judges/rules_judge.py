"""The judge of policies that code can decide, and the corrector that cuts to a word limit. No model."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from trace_ray.config import JudgeConfig
from trace_ray.config.policy import PolicyConfig
from trace_ray.judges import rules
from trace_ray.judges.opinion import Clauses, Draft, Opinion

_BROKEN, _KEPT = Opinion(1.0), Opinion(0.0)


class RulesJudge:
    """Decides exactly, by the rules in the policy's clauses."""

    def __init__(self, policy: PolicyConfig, _config: JudgeConfig | None = None) -> None:
        self.policy = policy
        self.judged = 0

    def opinions(self, requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        self.judged += len(responses)
        broken = rules.violates(self.policy, pa.array(requests, pa.string()), pa.array(responses, pa.string()))
        return [_BROKEN if violates else _KEPT for violates in broken.to_pylist()]

    def clauses(self, requests: Sequence[str], responses: Sequence[str]) -> list[Clauses]:
        asked = pa.array(requests, pa.string()), pa.array(responses, pa.string())
        broken = {name: clause.to_pylist() for name, clause in rules.broken_clauses(self.policy, *asked).items()}
        return [tuple((name, float(marks[i])) for name, marks in broken.items()) for i in range(len(responses))]

    def counts(self) -> dict[str, int]:
        return {"judged_prompts": self.judged}


class WordLimitCorrector:
    """Cuts a response to its last whole sentence within the policy's word limit."""

    def __init__(self, policy: PolicyConfig) -> None:
        self.limit = rules.word_limit(policy)

    def drafts(self, _requests: Sequence[str], responses: Sequence[str]) -> list[Draft]:
        return [Draft(rules.cut_to_words(response, self.limit)) for response in responses]

    def counts(self) -> dict[str, int]:
        return {}
