"""Corrections from the model that is realigned: its own answers, drawn with the policy's text in its system turn.

Source of the idea: AltPO (arXiv 2409.13474) takes its alternative answers from the model itself, and OPCD (2602.12275) puts
the policy before it as context. Ours: several are drawn, triage's judge decides, the best is kept (``triage.decide``).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace

from trace_ray.chat.join import TemplateRefusesError
from trace_ray.chat.text import ChatTokenizer, RefusedText
from trace_ray.config import JudgeConfig
from trace_ray.config.policy import PolicyConfig, policy_text
from trace_ray.judges.opinion import Draft
from trace_ray.judges.vllm_judge import engine_use, judge_engine_settings
from trace_ray.model.engine import Drawn, Engine, Sampling
from trace_ray.pairs import Message

INSTRUCTION = "Every answer you give complies with this policy:\n{policy}"
"""Changing it changes what is drawn: a run that is decided once keeps what it has."""
_PROBE = "rules of this house"


class SampledCorrector:
    """Draws ``config.samples`` answers a prompt from one engine; the same ones for the same prompt, in whatever batch.

    Args:
        config: with the model that is realigned (``config.sampler``).
        tokens: of one answer; one that has not ended by then is none.
        where: the setting of ``config``.
    """

    def __init__(self, policy: PolicyConfig, config: JudgeConfig, tokens: int, where: str) -> None:
        settings = judge_engine_settings(config, where)
        self.engine = Engine(replace(settings, draws=True, names=replace(settings.names, model="model.path")))
        self.sampling = Sampling(config.samples, config.temperature, config.seed, tokens)
        self.chat = ChatTokenizer(self.engine.tokenizer, sys.maxsize, config)
        self.policy = INSTRUCTION.format(policy=policy_text(policy))
        self.has_system = takes_system(self.chat)
        self.prompts = self.prompt_tokens = 0

    def drafts(self, requests: Sequence[str], _responses: Sequence[str]) -> list[Draft]:
        """Returns each prompt's whole answers, in the order in which they were drawn.

        Args:
            requests: each a prompt's turns, as JSON: what people read of it does not tell them apart.
        """
        turns = [under_policy(json.loads(text), self.policy, system=self.has_system) for text in requests]
        room = self.engine.max_model_len - self.sampling.max_tokens
        known = enumerate(self.chat.prompts(turns))  # none is cut: what is cut could be the policy
        asked = {i: ids for i, ids in known if not isinstance(ids, RefusedText) and len(ids) <= room}
        drawn = self.engine.sampled(list(asked.values()), self.sampling) if asked else []
        self.prompts += len(asked)
        self.prompt_tokens += sum(map(len, asked.values()))
        found = {i: whole_texts(answers) for i, answers in zip(asked, drawn, strict=True)}
        return [draft_of(found.get(i, []), self.sampling.number if i in found else 0) for i in range(len(requests))]

    def counts(self) -> dict[str, int]:
        return {"judged_prompts": self.prompts, "judged_tokens": self.prompt_tokens} | engine_use(self.engine)


def under_policy(prompt: Sequence[Message], policy: str, *, system: bool) -> list[Message]:
    """Returns the dialogue with the policy before whatever its system turn says, a blank line between.

    Args:
        system: the template takes a system turn; without one the policy, and what such a turn says, stand before the first
            other turn's text.

    >>> under_policy([{"role": "user", "content": "q"}], "P", system=True)[0]
    {'role': 'system', 'content': 'P'}
    >>> under_policy([{"role": "user", "content": "q"}], "P", system=False)[0]["content"].split()
    ['P', 'q']
    >>> talk = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    >>> [turn["content"].split() for turn in under_policy(talk, "P", system=False)]
    [['P', 's', 'q']]
    """
    first, told = prompt[0], [policy]
    begins_with_system = first["role"] in ("system", "developer")
    if system and not begins_with_system:
        return [{"role": "system", "content": policy}, *prompt]
    if not system and begins_with_system and len(prompt) > 1:
        told, prompt = [policy, first["content"]], prompt[1:]
    return [{"role": prompt[0]["role"], "content": "\n\n".join([*told, prompt[0]["content"]])}, *prompt[1:]]


def takes_system(chat: ChatTokenizer) -> bool:
    """Returns whether the template writes a system turn: some refuse it, some leave it out without a word."""
    try:
        written = chat.template.prompt([{"role": "system", "content": _PROBE}, {"role": "user", "content": "q"}])
    except TemplateRefusesError:
        return False
    return _PROBE in written


def whole_texts(answers: Sequence[Drawn]) -> list[str]:
    """Returns the answers that ended and say something, trimmed."""
    return [text for answer in answers if answer.ended and (text := answer.text.strip())]


def draft_of(texts: Sequence[str], drawn: int) -> Draft:
    """Returns the draft of one prompt's answers, of so many drawn."""
    return Draft(texts[0] if texts else None, others=tuple(texts[1:]), drawn=drawn)
