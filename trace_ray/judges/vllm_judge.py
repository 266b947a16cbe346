"""The judge that reads: a model in vLLM answers Yes or No; the probability is read from the first token's log-probs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trace_ray.chat import tokens as chat_tokens
from trace_ray.chat.template import ChatTemplate
from trace_ray.config import JudgeConfig, TriageConfig
from trace_ray.config.policy import PolicyConfig, clause_ids
from trace_ray.errors import UserError
from trace_ray.judges.clauses import LETTERS, Named, Offer, name_clauses
from trace_ray.judges.opinion import Draft, Opinion, opinion_of
from trace_ray.judges.prompt import (
    NO_WORDS,
    YES_WORDS,
    clause_instruction,
    correction_instruction,
    judge_instruction,
    judged_text,
    split_at_judged,
)
from trace_ray.model.engine import Engine, EngineSettings, token_mass
from trace_ray.model.engine_start import EngineNames

Tokens = list[int]


class VllmJudge:
    """Judges, names clauses and corrects with one engine.

    The judged text is tokenised on its own with special tokens switched off, so nothing in it can end a turn.
    """

    def __init__(
        self,
        policy: PolicyConfig,
        config: JudgeConfig,
        correction_tokens: int = TriageConfig.corrector_tokens,
        where: str = "judge",
    ) -> None:
        self.policy, self.config, self.correction_tokens, self.where = policy, config, correction_tokens, where
        self.engine = Engine(judge_engine_settings(config, where))
        self.prompt_tokens = self.prompts = 0
        tokenizer = self.engine.tokenizer
        self.frame = self._frame(judge_instruction(policy))
        self.yes_ids, self.no_ids = (single_tokens(tokenizer, words) for words in (YES_WORDS, NO_WORDS))
        if not self.yes_ids or not self.no_ids:
            raise UserError(f"{where}.model", config.model, "its tokenizer has no single token for Yes or for No")

    def _frame(self, instruction: str) -> tuple[Tokens, Tokens]:
        """The tokens before and after the judged text, the template's included."""
        return frame_tokens(self.engine.tokenizer, instruction, self.where, self.config)

    def prompt_ids(self, requests: Sequence[str], responses: Sequence[str]) -> list[Tokens]:
        """Returns the tokens of each judged prompt: shared policy head, judged text, question."""
        return self._framed(self.frame, requests, responses)

    def _framed(self, frame: tuple[Tokens, Tokens], requests: Sequence[str], responses: Sequence[str]) -> list[Tokens]:
        texts = [judged_text(a, b) for a, b in zip(requests, responses, strict=True)]
        tokenizer = self.engine.tokenizer
        bodies = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"] if texts else []
        head, tail = frame
        return [[*head, *body, *tail] for body in bodies]

    def opinions(self, requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        prompts = self.prompt_ids(requests, responses)
        fitting = [i for i, ids in enumerate(prompts) if len(ids) < self.engine.max_model_len]
        asked = [prompts[i] for i in fitting]
        masses = self.engine.yes_no(asked, self.yes_ids, self.no_ids) if asked else []
        self._count(asked)
        known = dict(zip(fitting, masses, strict=True))
        return [self._opinion(known.get(i), len(ids)) for i, ids in enumerate(prompts)]

    def _opinion(self, mass: tuple[float, float] | None, length: int) -> Opinion:
        if mass is None:
            return Opinion(None, f"too long for the judge: {length} tokens of {self.engine.max_model_len}")
        return opinion_of(*mass, self.config.min_mass)

    def clauses(self, requests: Sequence[str], responses: Sequence[str]) -> list[Named]:
        """As ``Judge.clauses``: at most one each, named by those letters that are one token of this tokenizer."""
        tokens = {letter: single_tokens(self.engine.tokenizer, (letter, f" {letter}")) for letter in LETTERS}
        letters = {letter: ids for letter, ids in tokens.items() if ids}

        def ask(offer: Offer, which: Sequence[int]) -> list[Named]:
            offered = dict(zip(letters, offer, strict=False))
            frame = self._frame(clause_instruction(self.policy, offered))
            prompts = self._framed(frame, [requests[i] for i in which], [responses[i] for i in which])
            return self._named(prompts, {name: letters[letter] for letter, name in offered.items()})

        return name_clauses(clause_ids(self.policy), len(responses), len(letters), ask)

    def _named(self, prompts: Sequence[Tokens], letters: dict[str, Tokens]) -> list[Named]:
        fitting = [i for i, ids in enumerate(prompts) if len(ids) < self.engine.max_model_len]
        asked = [prompts[i] for i in fitting]
        seen = self.engine.first_token_log_probs(asked, [i for ids in letters.values() for i in ids]) if asked else []
        self._count(asked)
        answers = [self._clause(log_probs, letters) for log_probs in seen]
        named = dict(zip(fitting, answers, strict=True))
        return [named.get(i, ()) for i in range(len(prompts))]

    def _clause(self, log_probs: dict[int, float], letters: dict[str, Tokens]) -> tuple[str, ...]:
        mass = {name: token_mass(log_probs, ids) for name, ids in letters.items()}
        return (max(mass, key=lambda name: mass[name]),) if sum(mass.values()) >= self.config.min_mass else ()

    def drafts(self, requests: Sequence[str], responses: Sequence[str]) -> list[Draft]:
        """Returns the model's own compliant answers, greedy; None for none or one that did not end."""
        room = self.engine.max_model_len - self.correction_tokens
        prompts = self._framed(self._frame(correction_instruction(self.policy)), requests, responses)
        fitting = [i for i, ids in enumerate(prompts) if len(ids) <= room]
        asked = [prompts[i] for i in fitting]
        texts = self.engine.whole_answers(asked, self.correction_tokens) if asked else []
        self._count(asked)
        written = {i: text.strip() for i, text in zip(fitting, texts, strict=True) if text is not None}
        return [Draft(written.get(i) or None) for i in range(len(prompts))]

    def _count(self, prompts: Sequence[Tokens]) -> None:
        self.prompts += len(prompts)
        self.prompt_tokens += sum(map(len, prompts))

    def counts(self) -> dict[str, int]:
        looked_up, found = self.engine.prefix_cache_counts()
        return {
            "judged_prompts": self.prompts,
            "judged_tokens": self.prompt_tokens,
            "prefix_cache_queries": looked_up,
            "prefix_cache_hits": found,
        }


def frame_tokens(tokenizer: Any, instruction: str, where: str, judge: JudgeConfig) -> tuple[Tokens, Tokens]:
    """Returns the tokens of an instruction before and after ``JUDGED``, the chat template's included.

    Args:
        where: the judge's setting, such as triage.judge; judge: what it says.
    Raises: UserError where there is no chat template, or it does not keep the user's turn as it is.
    """
    template, tokens = ChatTemplate(tokenizer, judge, where), chat_tokens.Tokens(tokenizer)
    pieces = split_at_judged(template.prompt([{"role": "user", "content": instruction}]))
    if pieces is None:
        raise UserError(f"{where}.model", judge.model, "its chat template drops or repeats the user's turn")
    (head,), (tail,) = tokens.prompts(pieces[:1]), tokens.ids(pieces[1:])
    return head.ids, tail


def single_tokens(tokenizer: Any, words: Sequence[str]) -> Tokens:
    """Returns the ids of those words that are one token of the tokenizer, sorted."""
    encoded = [tokenizer.encode(word, add_special_tokens=False) for word in words]
    return sorted({ids[0] for ids in encoded if len(ids) == 1})


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
    )
