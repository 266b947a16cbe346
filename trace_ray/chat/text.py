"""Chat template, tokenising and truncation: the one way text becomes tokens, in scoring, training and evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from trace_ray.chat.cut import cut, without
from trace_ray.chat.join import TemplateRefusesError, common_start
from trace_ray.chat.template import Asked, ChatTemplate
from trace_ray.chat.tokens import Encoded, Tokens
from trace_ray.config import ModelConfig
from trace_ray.pairs import Message, RejectReason

T = TypeVar("T")


@dataclass(frozen=True)
class TokenizedPair:
    """A prompt and its responses in tokens; a response's mask is 1 on ``response_ids[name]`` and 0 on the prompt.

    Args:
        prompt_ids: with the template's headers, up to and including the assistant's.
        response_ids: of each response, with the template's end of turn.
        truncated: ``prompt``, where it lost some of its oldest text, and the responses that lost their ends.
    """

    prompt_ids: list[int]
    response_ids: dict[str, list[int]]
    truncated: tuple[str, ...]


@dataclass(frozen=True)
class RefusedText:
    """A row that cannot be put into tokens, and why."""

    reason: RejectReason
    detail: str


def accepted(found: Iterable[T | RefusedText]) -> list[T]:
    """Returns those that are in tokens."""
    return [dialogue for dialogue in found if not isinstance(dialogue, RefusedText)]


class ChatTokenizer:
    """Renders and tokenises with a model's template; the template writes every special token, a row's text none.

    Args:
        tokenizer: of transformers.
        max_length: tokens of prompt and response together.
        asked: template, its variables and its date; None = the tokenizer's own template.
    Raises: UserError where there is no chat template, or one that cannot be trained on.
    """

    def __init__(self, tokenizer: Any, max_length: int, asked: Asked | None = None) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.template = ChatTemplate(tokenizer, asked or ModelConfig())
        self.tokens = Tokens(tokenizer)
        self.end_of_turn = self.template.end
        self._before = self._seam()

    def _seam(self) -> str:
        """The end of every prompt, where an answer's tokens depend on what is before it; else empty.

        Tokenizers that write a blank before each text's first word would put one into the middle of the dialogue.
        """
        first, second = (self.template.prompt([{"role": "user", "content": text}])[::-1] for text in ("one", "two?"))
        before, after = common_start(first, second)[::-1], self.template.join.lead
        tried = [after + word + self.end_of_turn for word in ("Yes", "the answer", "7")]
        joined, plain = self.tokens.ids([before + text for text in tried]), self.tokens.ids(tried)
        (begun,) = self.tokens.ids([before])
        same = all(whole == [*begun, *alone] for whole, alone in zip(joined, plain, strict=True))
        return "" if same else before

    def _answer_ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not self._before:
            return self.tokens.ids(texts)
        (begun,) = self.tokens.ids([self._before])
        joined = self.tokens.ids([self._before + text for text in texts])
        # A token across the seam is none that the model meets: it reads the prompt's tokens and begins the answer.
        return [
            whole[len(begun) :] if whole[: len(begun)] == begun else self.tokens.ids([text])[0]
            for whole, text in zip(joined, texts, strict=True)
        ]

    def prompts(self, prompts: Sequence[Sequence[Message]], limit: int | None = None) -> list[list[int] | RefusedText]:
        """Returns the tokens of each prompt up to where the assistant speaks, cut to ``limit`` (max_length if None).

        A longer one loses its oldest text, see ``chat.cut.cut``.
        """
        room = limit or self.max_length
        found: list[list[int] | RefusedText] = []
        for turns, text, tokens in zip(*self._prompts(prompts), strict=True):
            found.append(tokens if isinstance(tokens, RefusedText) else self._fitting(turns, text, tokens, room))
        return found

    def _prompts(
        self, prompts: Sequence[Sequence[Message]]
    ) -> tuple[list[Sequence[Message]], list[str], list[Encoded | RefusedText]]:
        """Each prompt as the template is to read it, its text ("" where refused), and its tokens."""
        turns = [self.tokens.hidden_turns(prompt) for prompt in prompts]
        written = self.template.prompts(turns)
        known = iter(self.tokens.prompts([text for text in written if isinstance(text, str)]))
        found = [next(known) if isinstance(text, str) else _refused(text) for text in written]
        return turns, [text if isinstance(text, str) else "" for text in written], found

    def _fitting(self, turns: Sequence[Message], text: str, found: Encoded, room: int) -> list[int] | RefusedText:
        """The prompt's tokens, ``room`` at most."""
        excess = len(found.ids) - room
        if excess <= 0:
            return found.ids
        pieces = self.template.pieces(turns, text)
        spans = self.tokens.spans(pieces, found) if pieces else None
        gone = cut([turn["role"] for turn in turns], spans, excess) if spans else None
        return _no_room(room) if gone is None else without(found.ids, gone)

    def pairs(
        self, prompts: Sequence[Sequence[Message]], responses: Sequence[dict[str, str]]
    ) -> list[TokenizedPair | RefusedText]:
        """Returns prompts and responses in tokens, cut to max_length.

        A response may take what the prompt leaves, and half of max_length at least; it loses its end. The prompt then
        loses its oldest text (``chat.cut.cut``), the same for all responses of a pair, so that they differ in
        the response alone.
        """
        turns, texts, found = self._prompts(prompts)
        answers = [self._answers(*row) for row in zip(turns, texts, found, responses, strict=True)]
        known = iter(self._answer_ids([text for row in answers if not isinstance(row, RefusedText) for text in row]))
        pairs: list[TokenizedPair | RefusedText] = []
        for some, text, tokens, row, names in zip(turns, texts, found, answers, responses, strict=True):
            if isinstance(row, RefusedText) or isinstance(tokens, RefusedText):
                pairs.append(tokens if isinstance(tokens, RefusedText) else row)  # type: ignore[arg-type]
            else:
                pairs.append(self._truncate(some, text, tokens, {name: next(known) for name in names}))
        return pairs

    def _answers(
        self, turns: Sequence[Message], prompt: str, found: Encoded | RefusedText, row: dict[str, str]
    ) -> list[str] | RefusedText:
        if isinstance(found, RefusedText):
            return found
        try:
            return [self.template.answer(turns, prompt, self.tokens.hidden(text)) for text in row.values()]
        except TemplateRefusesError as error:
            return _refused(error)

    def _truncate(
        self, turns: Sequence[Message], text: str, found: Encoded, response_ids: dict[str, list[int]]
    ) -> TokenizedPair | RefusedText:
        room = max(self.max_length - len(found.ids), self.max_length // 2)
        kept = {name: ids[:room] for name, ids in response_ids.items()}
        left = self.max_length - max((len(ids) for ids in kept.values()), default=0)
        shorter = tuple(name for name, ids in response_ids.items() if len(ids) > room)
        prompt = self._fitting(turns, text, found, left)
        if isinstance(prompt, RefusedText):
            return prompt
        return TokenizedPair(prompt, kept, ("prompt", *shorter) if len(found.ids) > left else shorter)


def _refused(error: TemplateRefusesError) -> RefusedText:
    return RefusedText(RejectReason.TEMPLATE_REFUSES, f"the chat template refuses it: {error}")


def _no_room(room: int) -> RefusedText:
    detail = (
        f"its system turn and the template's marks leave no room for its text in {room} tokens: raise model.max_length"
    )
    return RefusedText(RejectReason.TOO_LONG, detail)
