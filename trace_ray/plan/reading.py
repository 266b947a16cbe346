"""How many tokens a judge reads: the prompts of ``judges.prompt`` in the judge's own tokens, without its engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa

from trace_ray.chat.template import ChatTemplate
from trace_ray.config import Config, JudgeConfig
from trace_ray.config.policy import clause_ids
from trace_ray.errors import UserError
from trace_ray.judges.clauses import LETTERS, groups, questions
from trace_ray.judges.prompt import (
    clause_instruction,
    correction_instruction,
    judge_instruction,
    judged_text,
    split_at_judged,
)
from trace_ray.model.loading import load_tokenizer
from trace_ray.pairs import RESPONSE_NAMES, prompt_text
from trace_ray.plan.judges import reading_judges
from trace_ray.triage.canaries import ATTACKS, CONTROLS, SEEDS
from trace_ray.triage.judge_worker import CANARY_PAIRS


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What one judge reads besides the question whether a response violates, in its own tokens.

    Args:
        clause, correct: tokens that a prompt has more where it asks for the clause, or for a correction.
        clause_prompts: questions that name one response's clause.
        canaries: tokens of the canaries that one actor tries; canary_prompts: how many those are.
    """

    clause: int
    correct: int
    canaries: int
    canary_prompts: int
    clause_prompts: int = 1


@dataclass(frozen=True)
class Reader:
    """One judge's tokenizer with the policy's text around what is judged.

    Args:
        longest: tokens that a prompt may have; a longer one is never asked.
    """

    tokenizer: Any
    template: ChatTemplate
    config: Config
    longest: float

    @classmethod
    def of(cls, name: str, judge: JudgeConfig, config: Config) -> Self:
        """Returns the reader of the judge in setting ``name``. Raises UserError where it cannot be a judge."""
        # Nobody here has an endpoint's tokenizer: its tokens are counted as the policy model's.
        if judge.backend != "vllm":
            model = config.model
            tokenizer = load_tokenizer(model.path, model.revision, model.trusted)
            return cls(tokenizer, ChatTemplate(tokenizer, model), config, math.inf)
        if not judge.model:
            raise UserError(f"{name}.model", "empty", f"name the judge's model, or set {name}.backend=rules")
        tokenizer = load_tokenizer(judge.model, judge.revision, judge.trusted, f"{name}.model")
        longest = int(judge.engine.get("max_model_len", judge.max_model_len)) - 1
        return cls(tokenizer, ChatTemplate(tokenizer, judge, name), config, longest)

    def frame(self, instruction: str) -> int:
        """Returns the tokens around the judged text, the chat template's included."""
        rendered = self.template.prompt([{"role": "user", "content": instruction}])
        pieces = split_at_judged(rendered) or (rendered,)  # a template that drops the turn is refused by the judge
        return sum(len(self.tokenizer(piece, add_special_tokens=False)["input_ids"]) for piece in pieces)

    def judged(self, requests: Sequence[str], responses: Sequence[str]) -> list[int]:
        """Returns the tokens of the prompt about each response, 0 where it is too long to be asked."""
        texts = [judged_text(a, b) for a, b in zip(requests, responses, strict=True)]
        bodies = (
            self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"] if texts else []
        )
        frame = self.frame(judge_instruction(self.config.policy))
        lengths = [frame + len(body) for body in bodies]
        return [length if length <= self.longest else 0 for length in lengths]

    def questions(self, pairs: pa.Table) -> Questions:
        """Returns the other questions' sizes; the canaries are those of the first pairs."""
        policy = self.config.policy
        plain = self.frame(judge_instruction(policy))
        requests, responses = canaries(pairs)
        names = tuple(clause_ids(policy))
        offered = dict(zip(LETTERS, groups(names, len(LETTERS))[-1], strict=False)) if names else {}
        return Questions(
            clause=self.frame(clause_instruction(policy, offered)) - plain,
            correct=self.frame(correction_instruction(policy)) - plain,
            canaries=sum(self.judged(requests, responses)),
            canary_prompts=len(requests),
            clause_prompts=questions(len(names)),
        )


def readers(config: Config) -> dict[str, Reader]:
    """Returns {setting's name: reader} of every judge that reads."""
    return {name: Reader.of(name, judge, config) for name, judge in reading_judges(config).items()}


def judged_tokens(pairs: pa.Table, by: dict[str, Reader]) -> list[dict[str, dict[str, int]]]:
    """Returns for each pair {judge: {response's name, or ``prompt`` for an empty response: tokens of the prompt}}."""
    requests = [prompt_text(prompt) for prompt in pairs["prompt"].to_pylist()]
    texts = {name: pairs[name].to_pylist() for name in RESPONSE_NAMES if name in pairs.column_names}
    texts["prompt"] = [""] * pairs.num_rows
    found: list[dict[str, dict[str, int]]] = [{name: {} for name in by} for _ in requests]
    for judge, reader in by.items():
        for name, responses in texts.items():
            there = [i for i, response in enumerate(responses) if response is not None]
            tokens = reader.judged([requests[i] for i in there], [responses[i] for i in there])
            for i, number in zip(there, tokens, strict=True):
                found[i][judge][name] = number
    return found


def canaries(pairs: pa.Table) -> tuple[list[str], list[str]]:
    """(Requests, responses) that the canaries put to the judge at most: where all of the first pairs violate.

    The seeds are the responses that the judge will call violating; the first rejected ones stand for them here.
    """
    first = pairs.slice(0, CANARY_PAIRS)
    requests = [prompt_text(prompt) for prompt in first["prompt"].to_pylist()] * 2
    responses = [*first["rejected"].to_pylist(), *first["chosen"].to_pylist()]
    tried = [(i, attack) for i in range(min(SEEDS, len(responses))) for attack in ATTACKS.values()]
    return (
        [*requests, *(request for request, _ in CONTROLS), *(requests[i] for i, _ in tried)],
        [*responses, *(response for _, response in CONTROLS), *(attack(responses[i]) for i, attack in tried)],
    )
