"""The judge behind an OpenAI-compatible chat endpoint; P(violates) from the first token's top log-probs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trace_ray.config import JudgeConfig, TriageConfig
from trace_ray.config.policy import PolicyConfig, clause_ids
from trace_ray.errors import UserError
from trace_ray.judges.clauses import ask_clauses
from trace_ray.judges.endpoint import Endpoint
from trace_ray.judges.opinion import Clauses, Draft, Opinion, both_ways, contrary, opinion_of
from trace_ray.judges.prompt import (
    JUDGED,
    NO_WORDS,
    YES_WORDS,
    clause_instruction,
    correction_instruction,
    judge_instruction,
    judged_text,
    no_words,
    reason_instruction,
    spoken,
    yes_words,
)
from trace_ray.judges.replies import Reply
from trace_ray.judges.votes import Vote, opinion_of_votes, read_reasons, read_word, reason_schema

_NO_LOG_PROBS = Opinion(None, "endpoint: its answer carries no log-probs", final=False)
_FILTERED = re.compile(r"content[_ ](filter|management)|safety[_ ](filter|system)", re.IGNORECASE)
"""In an endpoint's refusal or reason to finish: it would not read the text, whoever asks how often."""
_BY_FILTER = Opinion(None, "content filter: the endpoint would not read it")
_MOST_WITHOUT = 16
"""Answers on end without log-probs that an endpoint which has given some is let pass: some are filtered, some broken."""

_WORD_TOKENS = 4
"""Of an answer of one word: room for a blank or a mark before it."""


class OpenAIJudge:
    """Judges, names clauses and corrects through one endpoint.

    Args:
        with_ids: the policy shows its clauses' ids in every question, so that those about clauses share its prefix.
    """

    def __init__(
        self,
        policy: PolicyConfig,
        config: JudgeConfig,
        correction_tokens: int = TriageConfig.corrector_tokens,
        where: str = "judge",
        *,
        with_ids: bool = False,
    ) -> None:
        self.policy, self.config, self.correction_tokens, self.where = policy, config, correction_tokens, where
        self.endpoint = Endpoint(config.endpoint, f"{where}.endpoint")
        self.with_ids = with_ids
        self.prompts = self.without = self.most_without = 0

    def opinions(self, requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        prompt, number = self.config.prompt, len(responses)
        if self.config.mode == "reason":
            instruction = reason_instruction(self.policy, prompt, with_ids=self.with_ids)
            return self._voted([instruction] * number, requests, responses, self._reasons)
        said = {}
        for opposite in {"violates": [False], "complies": [True], "both": [False, True]}[prompt.polarity]:
            instruction = judge_instruction(self.policy, prompt, with_ids=self.with_ids, opposite=opposite)
            said[opposite] = self._verdicts([instruction] * number, requests, responses)
        if len(said) == 2:
            return list(map(both_ways, said[False], said[True]))
        return said[False] if False in said else list(map(contrary, said[True]))

    def clauses(self, requests: Sequence[str], responses: Sequence[str]) -> list[Clauses | None]:
        """As ``VllmJudge.clauses``."""
        prompt = self.config.prompt
        asked = {name: clause_instruction(self.policy, name, prompt) for name in clause_ids(self.policy)}

        def ask(names: Sequence[str], requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
            return self._verdicts([asked[name] for name in names], requests, responses)

        return ask_clauses(list(asked), requests, responses, ask)

    def _verdicts(
        self, instructions: Sequence[str], requests: Sequence[str], responses: Sequence[str]
    ) -> list[Opinion]:
        if self.config.mode == "vote":
            return self._voted(instructions, requests, responses, self._words)
        answers = self._first_tokens(instructions, requests, responses)
        least, words = self.config.min_mass, self._answer_words()
        return [said if isinstance(said, Opinion) else opinion_of(*yes_no(said, *words), least) for said in answers]

    def _answer_words(self) -> tuple[Sequence[str], Sequence[str]]:
        return yes_words(self.config.prompt), no_words(self.config.prompt)

    def _words(self, reply: Reply) -> Vote:
        return read_word(_content(reply, whole=self.config.endpoint.reasons), *self._answer_words())

    def _reasons(self, reply: Reply) -> Vote:
        return read_reasons(_content(reply))

    def _voted(
        self,
        instructions: Sequence[str],
        requests: Sequence[str],
        responses: Sequence[str],
        read: Callable[[Reply], Vote],
    ) -> list[Opinion]:
        """``samples`` requests a response, each with a seed of its own: some endpoints give one answer a request."""
        config, number = self.config, self.config.samples
        by_reasons = config.mode == "reason"
        clauses = clause_ids(self.policy) if by_reasons and self.with_ids else []
        limits: dict[str, Any] = {"max_tokens": _WORD_TOKENS, "temperature": config.temperature}
        if by_reasons or config.endpoint.reasons:
            limits["max_tokens"] = config.reason_tokens
        if by_reasons:
            schema = {"name": "verdict", "strict": True, "schema": reason_schema(clauses)}
            limits["response_format"] = {"type": "json_schema", "json_schema": schema}
        asked, prompts, answers = (
            [text for text in texts for _ in range(number)] for texts in (instructions, requests, responses)
        )
        seeds = [config.seed + i for i in range(number)] * len(responses)
        replies = self._ask(asked, prompts, answers, limits, seeds)
        each = [replies[i : i + number] for i in range(0, len(replies), number)]
        return [
            _not_there(samples) or opinion_of_votes(list(map(read, samples)), config.min_mass, clauses)
            for samples in each
        ]

    def drafts(self, requests: Sequence[str], responses: Sequence[str]) -> list[Draft]:
        """As ``VllmJudge.drafts``."""
        limits = {"max_tokens": self.correction_tokens, "temperature": 0}
        instruction = correction_instruction(self.policy, with_ids=self.with_ids)
        replies = self._ask([instruction] * len(responses), requests, responses, limits)
        return [Draft(_content(reply), final=reply.final) for reply in replies]

    def _first_tokens(
        self, instructions: Sequence[str], requests: Sequence[str], responses: Sequence[str]
    ) -> list[dict[str, float] | Opinion]:
        """Returns ``first_token_mass`` of each reply, or an opinion that says why there is none.

        Raises: UserError where the endpoint gives no log-probs: not one in its first batch, or in many replies on end.
        """
        top = self.config.endpoint.top_logprobs
        limits = {"max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": top}
        answers = [_first_token(reply) for reply in self._ask(instructions, requests, responses, limits)]
        if any(isinstance(answer, dict) for answer in answers):
            self.most_without, self.without = _MOST_WITHOUT, 0
        else:
            self.without += answers.count(_NO_LOG_PROBS)
        if self.without > self.most_without:
            remedy = "its answers carry no log-probs (logprobs, top_logprobs): it cannot be a judge"
            raise UserError(f"{self.where}.endpoint.base_url", self.config.endpoint.base_url, remedy)
        return answers

    def _ask(
        self,
        instructions: Sequence[str],
        requests: Sequence[str],
        responses: Sequence[str],
        limits: Mapping[str, Any],
        seeds: Sequence[int] = (),
    ) -> list[Reply]:
        asked = zip(instructions, requests, responses, strict=True)
        texts = [instruction.replace(JUDGED, judged_text(a, b)) for instruction, a, b in asked]
        system = self.config.prompt.system
        before = [{"role": "system", "content": system}] if system else []
        self.prompts += len(texts)
        variables = self.config.chat_template_kwargs
        said = {"chat_template_kwargs": variables} if variables else {}  # OpenAI itself knows no such field
        fixed = {"model": self.config.model, **taken(limits, reasons=self.config.endpoint.reasons), **said}
        payloads = [{**fixed, "messages": [*before, {"role": "user", "content": text}]} for text in texts]
        for payload, seed in zip(payloads, seeds, strict=False):
            payload["seed"] = seed
        return self.endpoint.ask("chat/completions", payloads)

    def counts(self) -> dict[str, int]:
        return {"judged_prompts": self.prompts, **self.endpoint.counts()}


def taken(limits: Mapping[str, Any], *, reasons: bool) -> dict[str, Any]:
    """Returns a request's limits as a model takes them: one that reasons counts its thoughts and knows no temperature.

    >>> taken({"max_tokens": 9, "temperature": 0}, reasons=True)
    {'max_completion_tokens': 9}
    """
    if not reasons:
        return dict(limits)
    kept = {name: value for name, value in limits.items() if name not in ("temperature", "max_tokens")}
    return kept | {"max_completion_tokens": limits["max_tokens"]}


def first_token_mass(body: Mapping[str, Any]) -> dict[str, float]:
    """Returns {token, bare and lower-case: probability} of the first answer token's alternatives."""
    mass: dict[str, float] = {}
    for token in body["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
        word = str(token["token"]).strip().lower()
        mass[word] = mass.get(word, 0.0) + math.exp(float(token["logprob"]))
    return mass


def _first_token(reply: Reply) -> dict[str, float] | Opinion:
    if (none := _no_answer(reply)) is not None:
        return none
    try:
        return first_token_mass(reply.body or {})
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError):
        return _NO_LOG_PROBS


def _no_answer(reply: Reply) -> Opinion | None:
    """Why there is no answer, None where there is one, whatever it says."""
    if reply.body is None:
        if reply.final and _FILTERED.search(reply.error or ""):
            return _BY_FILTER
        return Opinion(None, reply.error, final=reply.final)
    try:
        return _BY_FILTER if _FILTERED.search(str(reply.body["choices"][0].get("finish_reason"))) else None
    except (KeyError, IndexError, TypeError, AttributeError):
        return None


def _not_there(replies: Sequence[Reply]) -> Opinion | None:
    """The same of several answers to one question: a failed one leaves them open, one that was filtered stands for all."""
    none = [unanswered for unanswered in map(_no_answer, replies) if unanswered is not None]
    return next((unanswered for unanswered in none if not unanswered.final), none[0] if none else None)


def yes_no(
    mass: Mapping[str, float], violates: Sequence[str] = YES_WORDS, complies: Sequence[str] = NO_WORDS
) -> tuple[float, float]:
    """Returns the probability of either kind of answer words in ``first_token_mass``."""
    yes, no = (sum(mass.get(word, 0.0) for word in spoken(words)) for words in (violates, complies))
    return yes, no


def _content(reply: Reply, *, whole: bool = True) -> str | None:
    """An answer's text; None for one that had not ended, unless that is no matter."""
    if reply.body is None:
        return None
    try:
        answer = reply.body["choices"][0]
        text, ended = answer["message"]["content"], not whole or answer.get("finish_reason") != "length"
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    return text.strip() or None if isinstance(text, str) and ended else None
