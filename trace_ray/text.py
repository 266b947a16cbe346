"""Chat template, tokenising and truncation: the one way text becomes tokens, in scoring, training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trace_ray.errors import UserError
from trace_ray.pairs import Message

_PROBE = "\x02RESPONSE\x03"


@dataclass(frozen=True)
class TokenizedPair:
    """A prompt and its responses in tokens; a response's mask is 1 on ``response_ids[name]`` and 0 on the prompt.

    Args:
        prompt_ids: with the template's headers, up to and including the assistant's.
        response_ids: of each response, with the template's end of turn.
        truncated: names of the responses that lost tokens.
    """

    prompt_ids: list[int]
    response_ids: dict[str, list[int]]
    truncated: tuple[str, ...]


class ChatTokenizer:
    """Renders and tokenises with a model's own template; the template writes every special token, once.

    Args:
        tokenizer: of transformers, with a chat template.
        max_length: tokens of prompt and response together.
    Raises: UserError where there is no chat template, or it rewrites earlier turns when an answer is added.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        if not tokenizer.chat_template:
            raise UserError(
                "model.path", tokenizer.name_or_path, "this tokenizer has no chat template; use an instruct model"
            )
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.end_of_turn = self._end_of_turn()

    def _end_of_turn(self) -> str:
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _PROBE}]
        whole = self._render(turns, add_generation_prompt=False)
        head, found, end = whole.partition(_PROBE)
        if not found or head != self._render(turns[:1], add_generation_prompt=True):
            raise UserError(
                "model.path", self.tokenizer.name_or_path, "its chat template does not end a prompt as an answer begins"
            )
        return str(end).rstrip() or str(self.tokenizer.eos_token)

    def _render(self, turns: Sequence[Message], *, add_generation_prompt: bool) -> str:
        return str(
            self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt)
        )

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return [list(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []

    def prompts(self, prompts: Sequence[Sequence[Message]], limit: int | None = None) -> list[list[int]]:
        """Returns the tokens of each prompt up to where the assistant speaks; its last ``limit`` ones (max_length if None)."""
        keep = limit or self.max_length
        return [ids[-keep:] for ids in self._ids([self._render(p, add_generation_prompt=True) for p in prompts])]

    def pairs(self, prompts: Sequence[Sequence[Message]], responses: Sequence[dict[str, str]]) -> list[TokenizedPair]:
        """Returns prompts and responses in tokens, truncated to max_length.

        A response may take what the prompt leaves, and half of max_length at least; it loses its end. The prompt
        then keeps its last tokens, the same for all responses of a pair, so that they differ in the response alone.
        """
        prompt_ids = self.prompts(prompts, limit=10**9)
        flat = [text + self.end_of_turn for row in responses for text in row.values()]
        response_ids = iter(self._ids(flat))
        return [
            self._truncate(ids, {name: next(response_ids) for name in row})
            for ids, row in zip(prompt_ids, responses, strict=True)
        ]

    def _truncate(self, prompt_ids: list[int], response_ids: dict[str, list[int]]) -> TokenizedPair:
        room = max(self.max_length - len(prompt_ids), self.max_length // 2)
        kept = {name: ids[:room] for name, ids in response_ids.items()}
        longest = max((len(ids) for ids in kept.values()), default=0)
        truncated = tuple(name for name, ids in response_ids.items() if len(ids) > room)
        return TokenizedPair(prompt_ids[-(self.max_length - longest) :], kept, truncated)
