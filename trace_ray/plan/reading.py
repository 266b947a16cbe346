"""How many tokens a judge reads: the prompts of ``judges.prompt`` in the judge's own tokens, without its engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import pyarrow as pa

from trace_ray.config import Config, JudgeConfig
from trace_ray.errors import UserError
from trace_ray.judges.canaries import ATTACKS, CONTROLS, SEEDS
from trace_ray.judges.frames import Frame, Frames, bodies
from trace_ray.model.loading import load_tokenizer
from trace_ray.pairs import RESPONSE_NAMES, prompt_text
from trace_ray.plan.judges import reading_judges
from trace_ray.triage.trial import CANARY_PAIRS


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What one judge reads besides the question whether a response violates, in its own tokens.

    Args:
        clause: tokens that the questions about the clauses of one response have more, all together, than as many verdicts;
            correct: that a prompt has more where it asks for a correction.
        clause_prompts: questions about the clauses of one response; 0 where its verdict asks them.
        verdict_prompts: questions that one verdict takes.
        written: tokens of the reasons behind one verdict, at most.
        canaries: tokens of the canaries that one actor tries; canary_prompts: how many those are.
    """

    clause: int
    correct: int
    canaries: int
    canary_prompts: int
    clause_prompts: int = 1
    verdict_prompts: int = 1
    written: int = 0


@dataclass(frozen=True)
class Reader:
    """One judge's tokenizer with the policy's text around what is judged.

    Args:
        longest: tokens that a prompt may have; a longer one is never asked.
        times: prompts that the judge is sent for one question: an endpoint gives each sample an answer of its own.
    """

    frames: Frames
    longest: float
    times: int

    @classmethod
    def of(cls, name: str, judge: JudgeConfig, config: Config) -> Self:
        """Returns the reader of the judge in setting ``name``. Raises UserError where it cannot be a judge."""
        asked = config.triage.clauses and name in ("triage.judge", "triage.first_judge")
        with_ids = asked or judge.verdict_by == "clauses"
        # Nobody here has an endpoint's tokenizer: its tokens are counted as the policy model's.
        if judge.backend != "vllm":
            model = config.model
            tokenizer = load_tokenizer(model.path, model.revision, model.trusted)
            names = ("chat_template", "chat_template_kwargs", "chat_template_date")
            like = replace(judge, **{name_of: getattr(model, name_of) for name_of in names})
            samples = 1 if judge.mode == "verdict" else judge.samples
            return cls(Frames(tokenizer, config.policy, like, "model", with_ids), math.inf, samples)
        if not judge.model:
            raise UserError(f"{name}.model", "empty", f"name the judge's model, or set {name}.backend=rules")
        tokenizer = load_tokenizer(judge.model, judge.revision, judge.trusted, f"{name}.model")
        longest = int(judge.engine.get("max_model_len", judge.max_model_len)) - 1
        made = cls(Frames(tokenizer, config.policy, judge, name, with_ids), longest, 1)
        _ = made.verdict  # what cannot be asked is refused here
        return made

    @property
    def verdict(self) -> list[Frame]:
        """The questions that make one verdict."""
        frames, judge = self.frames, self.frames.judge
        if judge.verdict_by == "clauses":
            return list(frames.clauses.values())
        return [frames.reason] if judge.mode == "reason" else [frame for frame, _ in frames.verdict]

    @property
    def clauses(self) -> list[Frame]:
        """The questions about the clauses of a violating response: none where its verdict says them."""
        named = self.frames.judge.verdict_by == "clauses" or self.frames.judge.mode == "reason"
        return [] if named or not self.frames.with_ids else list(self.frames.clauses.values())

    def judged(self, requests: Sequence[str], responses: Sequence[str]) -> list[int]:
        """Returns the tokens of the prompts that one verdict on each response takes, those too long to be asked left out."""
        asked = self.verdict
        texts = [asked[0].texts(a, b) for a, b in zip(requests, responses, strict=True)]
        known = bodies(self.frames.tokenizer, [part for each in texts for part in each])
        read = [sum(len(known[part]) for part in each) for each in texts]
        lengths = [[frame.length + body for frame in asked] for body in read]
        return [self.times * sum(length for length in each if length <= self.longest) for each in lengths]

    def questions(self, pairs: pa.Table) -> Questions:
        """Returns the other questions' sizes; the canaries are those of the first pairs."""
        judge, verdict, clauses = self.frames.judge, self.verdict, self.clauses
        plain = verdict[0].length
        requests, responses = canaries(pairs)
        return Questions(
            clause=self.times * sum(frame.length - plain for frame in clauses),
            correct=0 if self.frames.guard else self.frames.correction.length - plain,
            canaries=sum(self.judged(requests, responses)),
            canary_prompts=self.times * len(requests) * len(verdict),
            clause_prompts=self.times * len(clauses),
            verdict_prompts=self.times * len(verdict),
            written=judge.samples * judge.reason_tokens if judge.mode == "reason" else 0,
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
