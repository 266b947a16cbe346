"""The tokens around a judged text, for each question that a judge may be asked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from trace_ray.chat import tokens as chat_tokens
from trace_ray.chat.join import TemplateRefusesError
from trace_ray.chat.source import TemplateSourceError, template_source
from trace_ray.chat.template import ChatTemplate, template_text
from trace_ray.config import JudgeConfig
from trace_ray.config.policy import PolicyConfig, clause_ids
from trace_ray.errors import UserError
from trace_ray.judges.guards import DIALOGUE, GUARDS, REQUEST, RESPONSE
from trace_ray.judges.prompt import (
    clause_instruction,
    correction_instruction,
    judge_instruction,
    judged_text,
    no_words,
    reason_instruction,
    split_at_judged,
    yes_words,
)

Tokens = list[int]
_BEFORE, _AFTER = re.compile(r"[ \t]*$"), re.compile(r"(?:\s*[\r\n])?")
"""What of a template a tokenizer reads with the text beside it: a word's own blank, the newlines after a full stop."""


@dataclass(frozen=True)
class Frame:
    """What is read around the judged text.

    Args:
        pieces: tokens before, between and after the texts.
        slots: which text stands between two pieces: ``judged`` (both in their delimiters), or ``request`` and ``response``.
        blanks: of the template, before and after each text, that are read with it; where there are some, a text's own are not.
    """

    pieces: Sequence[Tokens]
    slots: tuple[str, ...] = ("judged",)
    blanks: tuple[tuple[str, str], ...] = ()

    def texts(self, request: str, response: str) -> tuple[str, ...]:
        """Returns the text of each slot."""
        if self.slots == ("judged",):
            return (judged_text(request, response),)
        told = {"request": request.strip(), "response": response.strip()}
        return tuple(
            f"{before}{told[slot]}{after}" for slot, (before, after) in zip(self.slots, self.blanks, strict=True)
        )

    def around(self, bodies: Sequence[Tokens]) -> Tokens:
        """Returns the whole prompt: the slots' tokens in their places."""
        found = [*self.pieces[0]]
        for body, piece in zip(bodies, self.pieces[1:], strict=True):
            found += [*body, *piece]
        return found

    @property
    def length(self) -> int:
        """Tokens without those of the texts."""
        return sum(map(len, self.pieces))


@dataclass(frozen=True)
class Frames:
    """Every question that one judge may be asked, made when it is.

    Args:
        tokenizer: the judge's; where: its setting, such as triage.judge.
        with_ids: the policy shows its clauses' ids in every question, so that those about clauses share its prefix.
    """

    tokenizer: Any
    policy: PolicyConfig
    judge: JudgeConfig
    where: str
    with_ids: bool = False

    @cached_property
    def verdict(self) -> list[tuple[Frame, bool]]:
        """The questions that make one verdict, and whether a Yes to them says that the response violates."""
        prompt = self.judge.prompt
        if self.guard is not None:
            return [(self._dialogue(self.policy), True)]
        asked = {"violates": [False], "complies": [True], "both": [False, True]}[prompt.polarity]
        texts = [
            judge_instruction(self.policy, prompt, with_ids=self.with_ids, opposite=opposite) for opposite in asked
        ]
        return [(self._instruction(text), not opposite) for text, opposite in zip(texts, asked, strict=True)]

    @cached_property
    def clauses(self) -> dict[str, Frame]:
        """{clause's id: its question}. Raises UserError where a guard's template takes no policy."""
        ids = clause_ids(self.policy)
        if self.guard is None:
            return {
                clause: self._instruction(clause_instruction(self.policy, clause, self.judge.prompt)) for clause in ids
            }
        if self.guard.variable not in self._source:
            remedy = (
                "it judges by the policy that it was trained on, not by clauses of yours: leave them to another judge"
            )
            raise UserError(f"{self.where}.model", self.judge.model, remedy)
        alone = [replace(self.policy, text="", clauses=[clause]) for clause in self.policy.clauses]
        return {name: self._dialogue(policy) for name, policy in zip(ids, alone, strict=True)}

    @cached_property
    def reason(self) -> Frame:
        """Asks for reasons and a verdict."""
        return self._instruction(reason_instruction(self.policy, self.judge.prompt, with_ids=self.with_ids))

    @cached_property
    def correction(self) -> Frame:
        """Asks for a compliant response."""
        return self._instruction(correction_instruction(self.policy, with_ids=self.with_ids))

    @property
    def thinks(self) -> bool:
        """Whether the template leaves the model to think before it answers."""
        return self.guard is None and self._template.thinks

    @cached_property
    def guard(self) -> Any:
        """The kind of guard model, None of an instruct model."""
        return GUARDS.get(self.judge.prompt.form)

    def answer_ids(self) -> tuple[Tokens, Tokens]:
        """Returns the tokens that begin an answer that it violates, and that it complies.

        Raises: UserError where the tokenizer does not tell them apart by the first token.
        """
        prompt, guard = self.judge.prompt, self.guard
        yes = prompt.violates or (guard.violates if guard else yes_words(prompt))
        no = prompt.complies or (guard.complies if guard else no_words(prompt))
        found = [first_tokens(self.tokenizer, words, each=guard is not None) for words in (yes, no)]
        if not all(found) or set(found[0]) & set(found[1]):
            said = " or for ".join(dict.fromkeys(words[0].strip() for words in (yes, no)))
            remedy = (
                f"its tokenizer has no single token for {said}, or no other first token for the one than for the other"
            )
            raise UserError(f"{self.where}.model", self.judge.model, remedy)
        return found[0], found[1]

    def asked(self) -> list[Frame]:
        """Returns the questions whose tokens a verdict depends on."""
        if self.judge.mode == "reason":
            return [self.reason]
        by_clause = list(self.clauses.values()) if self.with_ids else []
        return [*(frame for frame, _ in self.verdict), *by_clause]

    @cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate(self.tokenizer, self.judge, self.where)

    def _instruction(self, instruction: str) -> Frame:
        head, tail = frame_tokens(self.tokenizer, instruction, self.where, self.judge, self._template)
        return Frame([head, tail])

    @cached_property
    def _source(self) -> frozenset[str]:
        try:
            text = template_text(self.tokenizer, self.judge.chat_template, self.where)
            return template_source(text).variables
        except TemplateSourceError as error:
            raise UserError(f"{self.where}.chat_template", self.judge.model, f"no jinja: {error}") from None

    def _dialogue(self, policy: PolicyConfig) -> Frame:
        """The two texts as a dialogue in the guard's own template, up to its answer word."""
        text = template_text(self.tokenizer, self.judge.chat_template, self.where)
        variables = self.guard.variables(policy, self._source) | self.judge.chat_template_kwargs
        rendered = self.tokenizer.apply_chat_template(DIALOGUE, chat_template=text, tokenize=False, **variables)
        before, first, rest = rendered.partition(REQUEST)
        between, second, after = rest.partition(RESPONSE)
        if not first or not second or REQUEST in rest or RESPONSE in after:
            remedy = (
                f"its chat template is none of {self.judge.prompt.form}: it drops or repeats a turn of the dialogue"
            )
            raise UserError(f"{self.where}.prompt.form", self.judge.prompt.form, remedy)
        begins = self.guard.begins
        after += "" if after.endswith(begins) else begins
        return self._around_dialogue([before, between, after])

    def _around_dialogue(self, rendered: Sequence[str]) -> Frame:
        """The frame of what a template writes before, between and after the two texts: its tokens as if it were whole."""
        before, between, after = rendered
        ends = [(_BEFORE.search(a), _AFTER.match(b)) for a, b in ((before, between), (between, after))]
        blanks = [(a[0] if a else "", b[0] if b else "") for a, b in ends]
        (first, then), (second, last) = blanks
        tokens = chat_tokens.Tokens(self.tokenizer)
        (head,) = tokens.prompts([before.removesuffix(first)])
        rest = [between[len(then) :].removesuffix(second), after[len(last) :]]
        return Frame([head.ids, *tokens.ids(rest)], ("request", "response"), tuple(blanks))


def frame_tokens(
    tokenizer: Any, instruction: str, where: str, judge: JudgeConfig, template: ChatTemplate | None = None
) -> tuple[Tokens, Tokens]:
    """Returns the tokens of an instruction before and after ``JUDGED``, the chat template's included.

    Args:
        where: the judge's setting, such as triage.judge; judge: what it says.
        template: the judge's, where it is at hand.
    Raises: UserError where there is no chat template, or it does not keep the user's turn as it is.
    """
    template, tokens = template or ChatTemplate(tokenizer, judge, where), chat_tokens.Tokens(tokenizer)
    system = [{"role": "system", "content": judge.prompt.system}] if judge.prompt.system else []
    try:
        pieces = split_at_judged(template.prompt([*system, {"role": "user", "content": instruction}]))
    except TemplateRefusesError as error:
        remedy = f"its chat template takes no system turn ({error}): leave it empty"
        raise UserError(f"{where}.prompt.system", judge.prompt.system[:40], remedy) from None
    if pieces is None:
        raise UserError(f"{where}.model", judge.model, "its chat template drops or repeats the user's turn")
    (head,), (tail,) = tokens.prompts(pieces[:1]), tokens.ids(pieces[1:])
    return head.ids, tail


def first_tokens(tokenizer: Any, words: Sequence[str], *, each: bool = False) -> Tokens:
    """Returns the ids of those words that are one token of the tokenizer, sorted; of none such, of all words' first tokens.

    Args:
        each: the words are no spellings of one answer but an answer each, none of which may be missing.
    """
    encoded = [tokenizer.encode(word, add_special_tokens=False) for word in words]
    whole = {ids[0] for ids in encoded if len(ids) == 1 and not each}
    return sorted(whole or {ids[0] for ids in encoded if ids})


def bodies(tokenizer: Any, texts: Sequence[str]) -> Mapping[str, Tokens]:
    """Returns {text: its tokens}; nothing in a text can end a turn: special tokens are switched off."""
    each = list(dict.fromkeys(texts))
    found = tokenizer(each, add_special_tokens=False, split_special_tokens=True)["input_ids"] if each else []
    return dict(zip(each, found, strict=True))
