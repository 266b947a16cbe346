"""The judge that reads: a model in vLLM answers with a word whose probability is read, or with reasons that are voted on."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from trace_ray.config import JudgeConfig, TriageConfig
from trace_ray.config.policy import PolicyConfig, clause_ids
from trace_ray.judges.clauses import ask_clauses
from trace_ray.judges.frames import Frame, Frames, Tokens, bodies
from trace_ray.judges.opinion import Clauses, Draft, Opinion, both_ways, contrary, opinion_of
from trace_ray.judges.votes import Vote, opinion_of_votes, read_reasons, reason_schema
from trace_ray.model.engine import Engine, EngineSettings, Sampling
from trace_ray.model.engine_start import EngineNames

_TOKENS_A_CHARACTER = 2
"""Of reasons at most, as a rule: an escaped one takes two. Plain words take a quarter of one."""
_PREPARED = 2
"""Questions whose tokens are kept: those that are being asked, and the next ones."""
_AFTER_REASONS = 64
"""Tokens left for what follows the reasons: the verdict, and the clauses."""


class VllmJudge:
    """Judges, names clauses and corrects with one engine.

    The judged text is tokenised on its own with special tokens switched off, so nothing in it can end a turn.

    Args:
        with_ids: as ``Frames`` takes it.
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
        self.policy, self.config, self.correction_tokens = policy, config, correction_tokens
        self.engine = Engine(judge_engine_settings(config, where))
        self.prompt_tokens = self.prompts = 0
        self._ready: deque[tuple[tuple[list[str], list[str]], list[list[Tokens]]]] = deque(maxlen=_PREPARED)
        self.frames = Frames(self.engine.tokenizer, policy, config, where, with_ids)
        self.yes_ids, self.no_ids = self.frames.answer_ids()
        self.frames.asked()

    def prompt_ids(self, requests: Sequence[str], responses: Sequence[str]) -> list[Tokens]:
        """Returns the tokens of the first prompt about each response: shared policy head, judged text, question."""
        return self._framed([self.frames.asked()[0]] * len(responses), requests, responses)

    def _framed(self, frames: Sequence[Frame], requests: Sequence[str], responses: Sequence[str]) -> list[Tokens]:
        texts = [f.texts(a, b) for f, a, b in zip(frames, requests, responses, strict=True)]
        known = bodies(self.engine.tokenizer, [part for each in texts for part in each])
        return [f.around([known[part] for part in each]) for f, each in zip(frames, texts, strict=True)]

    def prepare(self, requests: Sequence[str], responses: Sequence[str]) -> None:
        """Makes the tokens for the ``opinions`` that are asked for next, in a thread beside those that are being answered."""
        self._ready.append(((list(requests), list(responses)), self._questions(requests, responses)))

    def _questions(self, requests: Sequence[str], responses: Sequence[str]) -> list[list[Tokens]]:
        """Returns the prompts of all questions that make an opinion, by question."""
        asked = [self.frames.reason] if self.config.mode == "reason" else [frame for frame, _ in self.frames.verdict]
        return [self._framed([frame] * len(responses), requests, responses) for frame in asked]

    def opinions(self, requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        asked = list(requests), list(responses)
        ready = next((made for of, made in list(self._ready) if of == asked), None)
        questions = self._questions(requests, responses) if ready is None else ready
        if self.config.mode == "reason":
            return self._reasoned(questions[0])
        verdicts = zip(self.frames.verdict, questions, strict=True)
        said = {violates: self._verdicts(prompts) for (_, violates), prompts in verdicts}
        if len(said) == 2:
            return list(map(both_ways, said[True], said[False]))
        return said[True] if True in said else list(map(contrary, said[False]))

    def clauses(self, requests: Sequence[str], responses: Sequence[str]) -> list[Clauses | None]:
        """As ``Judge.clauses``; where it gives reasons, the opinions name the clauses and nothing is asked here."""

        def ask(names: Sequence[str], requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
            frames = self.frames.clauses
            return self._verdicts(self._framed([frames[name] for name in names], requests, responses))

        return ask_clauses(clause_ids(self.policy), requests, responses, ask)

    def _verdicts(self, prompts: Sequence[Tokens]) -> list[Opinion]:
        """P of each prompt's answer being one of ``yes_ids``, from its first token, or of the share of votes for them."""
        fitting = self._fitting(prompts, 1)
        asked, least = [prompts[i] for i in fitting], self.config.min_mass
        if self.config.mode == "vote":
            drawn = self.engine.sampled(asked, self._sampling(1)) if asked else []
            found = [opinion_of_votes([self._vote(sample.tokens) for sample in each], least) for each in drawn]
        else:
            masses = self.engine.yes_no(asked, self.yes_ids, self.no_ids) if asked else []
            found = [opinion_of(*mass, least) for mass in masses]
        return self._placed(prompts, fitting, found)

    def _vote(self, tokens: Sequence[int]) -> Vote:
        first = tokens[0] if tokens else -1
        return Vote(True if first in self.yes_ids else False if first in self.no_ids else None)

    def _reasoned(self, prompts: Sequence[Tokens]) -> list[Opinion]:
        limit, least = self.config.reason_tokens, self.config.min_mass
        clauses = clause_ids(self.policy) if self.frames.with_ids else []
        # What thinks first cannot be held to JSON from its first token on.
        room = max(1, (limit - _AFTER_REASONS - 8 * len(clauses)) // _TOKENS_A_CHARACTER)
        schema = None if self.frames.thinks else reason_schema(clauses, room)
        fitting = self._fitting(prompts, limit)
        asked = [prompts[i] for i in fitting]
        drawn = self.engine.sampled(asked, self._sampling(limit, schema)) if asked else []
        votes = [[read_reasons(sample.text if sample.ended else None) for sample in each] for each in drawn]
        return self._placed(prompts, fitting, [opinion_of_votes(each, least, clauses) for each in votes])

    def _sampling(self, limit: int, schema: dict[str, Any] | None = None) -> Sampling:
        config = self.config
        return Sampling(config.samples, config.temperature, config.seed, limit, schema)

    def _fitting(self, prompts: Sequence[Tokens], answer: int) -> list[int]:
        room = self.engine.max_model_len - answer
        return [i for i, ids in enumerate(prompts) if len(ids) <= room]

    def _placed(self, prompts: Sequence[Tokens], fitting: Sequence[int], found: Sequence[Opinion]) -> list[Opinion]:
        """Counts what was asked, and puts the opinions in their places, with a reason in those that were not asked."""
        self._count([prompts[i] for i in fitting])
        known, longest = dict(zip(fitting, found, strict=True)), self.engine.max_model_len
        long = "too long for the judge: {} tokens of {}"
        return [known.get(i, Opinion(None, long.format(len(ids), longest))) for i, ids in enumerate(prompts)]

    def drafts(self, requests: Sequence[str], responses: Sequence[str]) -> list[Draft]:
        """Returns the model's own compliant answers, greedy; None for none or one that did not end."""
        prompts = self._framed([self.frames.correction] * len(responses), requests, responses)
        fitting = self._fitting(prompts, self.correction_tokens)
        asked = [prompts[i] for i in fitting]
        texts = self.engine.whole_answers(asked, self.correction_tokens) if asked else []
        self._count(asked)
        written = {i: text.strip() for i, text in zip(fitting, texts, strict=True) if text is not None}
        return [Draft(written.get(i) or None) for i in range(len(prompts))]

    def _count(self, prompts: Sequence[Tokens]) -> None:
        self.prompts += len(prompts)
        self.prompt_tokens += sum(map(len, prompts))

    def counts(self) -> dict[str, int]:
        return {"judged_prompts": self.prompts, "judged_tokens": self.prompt_tokens} | engine_use(self.engine)


def engine_use(engine: Engine) -> dict[str, int]:
    """Returns what an engine has used since it began: tokens of its prefix cache, time."""
    looked_up, found = engine.prefix_cache_counts()
    return {
        "prefix_cache_queries": looked_up,
        "prefix_cache_hits": found,
        "engine_ms": round(1000 * engine.busy_s),
        "engine_waited_ms": round(1000 * engine.waited_s),
    }


def judge_engine_settings(config: JudgeConfig, where: str = "judge") -> EngineSettings:
    """Returns the engine's settings for the vLLM judge of the setting ``where``, such as triage.second_judge."""
    return EngineSettings(
        model=config.model,
        revision=config.revision,
        trusted=config.trusted,
        dtype=config.dtype,
        max_model_len=config.max_model_len,
        kv_cache_gib=config.kv_cache_gib,
        num_cpus=config.num_cpus,
        extra=tuple(config.engine.items()),
        names=EngineNames.of_judge(where),
        gpus=None if isinstance(config.num_gpus, str) else config.gpus,
        draws=config.mode != "verdict",
    )
