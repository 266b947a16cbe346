"""The judge behind an OpenAI-compatible chat endpoint; P(violates) from the first token's top log-probs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from trace_ray.config import JudgeConfig, TriageConfig
from trace_ray.config.policy import PolicyConfig, clause_ids
from trace_ray.errors import UserError
from trace_ray.judges.clauses import LETTERS, Named, Offer, name_clauses
from trace_ray.judges.endpoint import Endpoint, Reply
from trace_ray.judges.opinion import Draft, Opinion, opinion_of
from trace_ray.judges.prompt import (
    JUDGED,
    NO_WORDS,
    YES_WORDS,
    clause_instruction,
    correction_instruction,
    judge_instruction,
    judged_text,
    spoken,
)

_NO_LOG_PROBS = Opinion(None, "endpoint: its answer carries no log-probs", final=False)
_FILTERED = re.compile(r"content[_ ](filter|management)|safety[_ ](filter|system)", re.IGNORECASE)
"""In an endpoint's refusal or reason to finish: it would not read the text, whoever asks how often."""
_BY_FILTER = Opinion(None, "content filter: the endpoint would not read it")
_MOST_WITHOUT = 16
"""Answers on end without log-probs that an endpoint which has given some is let pass: some are filtered, some broken."""


class OpenAIJudge:
    """Judges, names clauses and corrects through one endpoint."""

    def __init__(
        self,
        policy: PolicyConfig,
        config: JudgeConfig,
        correction_tokens: int = TriageConfig.corrector_tokens,
        where: str = "judge",
    ) -> None:
        self.policy, self.config, self.correction_tokens, self.where = policy, config, correction_tokens, where
        self.endpoint = Endpoint(config.endpoint, f"{where}.endpoint")
        self.prompts = self.without = self.most_without = 0

    def opinions(self, requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        answers = self._first_tokens(judge_instruction(self.policy), requests, responses)
        least = self.config.min_mass
        return [said if isinstance(said, Opinion) else opinion_of(*yes_no(said), least) for said in answers]

    def clauses(self, requests: Sequence[str], responses: Sequence[str]) -> list[Named]:
        """As ``Judge.clauses``: at most one each."""

        def ask(offer: Offer, which: Sequence[int]) -> list[Named]:
            offered = dict(zip(LETTERS, offer, strict=False))
            pairs = [requests[i] for i in which], [responses[i] for i in which]
            answers = self._first_tokens(clause_instruction(self.policy, offered), *pairs)
            names = {letter.lower(): name for letter, name in offered.items()}
            return [_unnamed(said) if isinstance(said, Opinion) else self._clause(said, names) for said in answers]

        return name_clauses(clause_ids(self.policy), len(responses), len(LETTERS), ask)

    def _clause(self, top: Mapping[str, float], names: Mapping[str, str]) -> tuple[str, ...]:
        mass = {letter: top.get(letter, 0.0) for letter in names}
        best = max(mass, key=lambda letter: mass[letter])
        return (names[best],) if sum(mass.values()) >= self.config.min_mass else ()

    def drafts(self, requests: Sequence[str], responses: Sequence[str]) -> list[Draft]:
        """As ``VllmJudge.drafts``."""
        limits = {"max_tokens": self.correction_tokens, "temperature": 0}
        replies = self._ask(correction_instruction(self.policy), requests, responses, limits)
        return [Draft(_content(reply), final=reply.final) for reply in replies]

    def _first_tokens(
        self, instruction: str, requests: Sequence[str], responses: Sequence[str]
    ) -> list[dict[str, float] | Opinion]:
        """Returns ``first_token_mass`` of each reply, or an opinion that says why there is none.

        Raises: UserError where the endpoint gives no log-probs: not one in its first batch, or in many replies on end.
        """
        top = self.config.endpoint.top_logprobs
        limits = {"max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": top}
        answers = [_first_token(reply) for reply in self._ask(instruction, requests, responses, limits)]
        if any(isinstance(answer, dict) for answer in answers):
            self.most_without, self.without = _MOST_WITHOUT, 0
        else:
            self.without += answers.count(_NO_LOG_PROBS)
        if self.without > self.most_without:
            remedy = "its answers carry no log-probs (logprobs, top_logprobs): it cannot be a judge"
            raise UserError(f"{self.where}.endpoint.base_url", self.config.endpoint.base_url, remedy)
        return answers

    def _ask(
        self, instruction: str, requests: Sequence[str], responses: Sequence[str], limits: Mapping[str, Any]
    ) -> list[Reply]:
        texts = [instruction.replace(JUDGED, judged_text(a, b)) for a, b in zip(requests, responses, strict=True)]
        turns = [[{"role": "user", "content": text}] for text in texts]
        self.prompts += len(turns)
        asked = self.config.chat_template_kwargs
        said = {"chat_template_kwargs": asked} if asked else {}  # OpenAI itself knows no such field
        payloads = [{"model": self.config.model, "messages": turn, **limits, **said} for turn in turns]
        return self.endpoint.ask("chat/completions", payloads)

    def counts(self) -> dict[str, int]:
        return {"judged_prompts": self.prompts, **self.endpoint.counts()}


def _unnamed(opinion: Opinion) -> Named:
    return () if opinion.final else None


def first_token_mass(body: Mapping[str, Any]) -> dict[str, float]:
    """Returns {token, bare and lower-case: probability} of the first answer token's alternatives."""
    mass: dict[str, float] = {}
    for token in body["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
        word = str(token["token"]).strip().lower()
        mass[word] = mass.get(word, 0.0) + math.exp(float(token["logprob"]))
    return mass


def _first_token(reply: Reply) -> dict[str, float] | Opinion:
    if reply.body is None:
        if reply.final and _FILTERED.search(reply.error or ""):
            return _BY_FILTER
        return Opinion(None, reply.error, final=reply.final)
    try:
        if _FILTERED.search(str(reply.body["choices"][0].get("finish_reason"))):
            return _BY_FILTER
        return first_token_mass(reply.body)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError):
        return _NO_LOG_PROBS


def yes_no(mass: Mapping[str, float]) -> tuple[float, float]:
    """Returns the probability of a Yes and of a No in ``first_token_mass``."""
    yes, no = (sum(mass.get(word, 0.0) for word in spoken(words)) for words in (YES_WORDS, NO_WORDS))
    return yes, no


def _content(reply: Reply) -> str | None:
    if reply.body is None:
        return None
    try:
        answer = reply.body["choices"][0]
        text, ended = answer["message"]["content"], answer.get("finish_reason") != "length"
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    return text.strip() or None if isinstance(text, str) and ended else None
