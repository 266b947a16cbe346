"""A judge gives each (request, response) a probability that it violates the policy, or the reason why not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import pyarrow as pa

from trace_ray.config import JudgeConfig
from trace_ray.errors import UserError
from trace_ray.inference import Engine, EngineSettings, Verdict
from trace_ray.judges import rules
from trace_ray.judges.prompt import JUDGED, judge_instruction, judged_text
from trace_ray.policy import PolicyConfig

YES_WORDS = ("Yes", " Yes", "yes", " yes", "YES", " YES")
NO_WORDS = ("No", " No", "no", " no", "NO", " NO")


class Opinion(NamedTuple):
    """P(violates) in [0, 1], or None with the reason in ``error``."""

    p_violates: float | None
    error: str | None = None


class Judge(Protocol):
    """Anything that judges a block of responses."""

    def opinions(self, requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        """Returns one opinion a response, in order."""

    def counts(self) -> dict[str, int]:
        """Returns what the judge has used since it began: prompts, tokens, cached tokens."""


class RulesJudge:
    """Decides by the rules in the policy's clauses; no model."""

    def __init__(self, policy: PolicyConfig) -> None:
        self.policy = policy

    def opinions(self, requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        broken = rules.violates(self.policy, pa.array(requests, pa.string()), pa.array(responses, pa.string()))
        return [Opinion(1.0 if one else 0.0) for one in broken.to_pylist()]

    def counts(self) -> dict[str, int]:
        return {}


class VllmJudge:
    """A model that reads the policy and answers Yes or No; the probability is read from the first token's log-probs.

    The judged text is tokenised on its own with special tokens switched off, so nothing in it can end a turn.
    """

    def __init__(self, policy: PolicyConfig, config: JudgeConfig) -> None:
        self.config = config
        self.engine = Engine(judge_engine_settings(config))
        self.prompt_tokens = self.prompts = 0
        tokenizer = self.engine.tokenizer
        turns = [{"role": "user", "content": judge_instruction(policy)}]
        rendered = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        head, found, tail = rendered.partition(JUDGED)
        if not found:
            raise UserError("triage.judge.model", config.model, "its chat template drops the user's turn")
        self.head_ids, self.tail_ids = (list(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in (head, tail))
        self.yes_ids, self.no_ids = (_single_tokens(tokenizer, words) for words in (YES_WORDS, NO_WORDS))
        if not self.yes_ids or not self.no_ids:
            raise UserError("triage.judge.model", config.model, "its tokenizer has no single token for Yes or for No")

    def prompt_ids(self, requests: Sequence[str], responses: Sequence[str]) -> list[list[int]]:
        """Returns the tokens of each judged prompt: shared policy head, judged text, question."""
        texts = [judged_text(a, b) for a, b in zip(requests, responses, strict=True)]
        tokenizer = self.engine.tokenizer
        bodies = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"] if texts else []
        return [[*self.head_ids, *body, *self.tail_ids] for body in bodies]

    def opinions(self, requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        prompts = self.prompt_ids(requests, responses)
        unique = {tuple(ids): None for ids in prompts if len(ids) < self.engine.max_model_len}
        verdicts = self.engine.verdicts([list(ids) for ids in unique], self.yes_ids, self.no_ids)
        self.prompts += len(unique)
        self.prompt_tokens += sum(map(len, unique))
        known = dict(zip(unique, verdicts, strict=True))
        return [self._opinion(known, tuple(ids)) for ids in prompts]

    def _opinion(self, known: dict[tuple[int, ...], Verdict], ids: tuple[int, ...]) -> Opinion:
        verdict = known.get(ids)
        if verdict is None:
            return Opinion(None, f"too long for the judge: {len(ids)} tokens of {self.engine.max_model_len}")
        if verdict.mass < self.config.min_mass:
            return Opinion(None, f"unreadable: mass {verdict.mass:.3f} on Yes and No")
        return Opinion(verdict.p_yes)

    def counts(self) -> dict[str, int]:
        looked_up, found = self.engine.prefix_cache_counts()
        return {
            "judged_prompts": self.prompts,
            "judged_tokens": self.prompt_tokens,
            "prefix_cache_queries": looked_up,
            "prefix_cache_hits": found,
        }


def _single_tokens(tokenizer: object, words: Sequence[str]) -> list[int]:
    encoded = [tokenizer.encode(word, add_special_tokens=False) for word in words]  # type: ignore[attr-defined]
    return sorted({ids[0] for ids in encoded if len(ids) == 1})


def judge_engine_settings(config: JudgeConfig) -> EngineSettings:
    """Returns the engine's settings for a vLLM judge."""
    return EngineSettings(
        model=config.model,
        revision=config.revision,
        dtype=config.dtype,
        max_model_len=config.max_model_len,
        kv_cache_gib=config.kv_cache_gib,
        num_cpus=config.num_cpus,
        extra=tuple(config.engine.items()),
    )


def make_judge(policy: PolicyConfig, config: JudgeConfig) -> Judge:
    """Returns the judge that ``config.backend`` names."""
    return RulesJudge(policy) if config.backend == "rules" else VllmJudge(policy, config)
