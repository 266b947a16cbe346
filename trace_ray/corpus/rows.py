"""One raw row of a public preference format -> a prompt and two responses, or the reason why not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from trace_ray.pairs import Message, RejectReason

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


class RejectedRowError(ValueError):
    """A row that is no preference pair, with the reason."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class RawPair(NamedTuple):
    """A pair before it has an id: prompt as messages, the last of them the user's."""

    prompt: list[Message]
    chosen: str
    rejected: str


def detect_format(row: Mapping[str, Any]) -> str:
    """Returns the format whose columns the row has; ``preference`` where none is plainer."""
    if "response_0" in row and "response_1" in row:
        return "pku_saferlhf"
    chosen, prompt = row.get("chosen"), row.get("prompt")
    if isinstance(chosen, str):
        return "hh_rlhf" if prompt is None and _TURN.match(chosen) else "preference"
    whole_dialogue = isinstance(chosen, list) and len(chosen) > 1
    return "ultrafeedback" if isinstance(prompt, str) and whole_dialogue else "preference"


def parse_row(row: Any, form: str) -> RawPair:
    """Returns the pair in one row.

    Args:
        row: a mapping read from JSON, parquet or Arrow.
        form: ``auto`` or one of

            - ``preference`` (TRL): prompt, chosen, rejected, each text or messages; without a prompt, it is what
              chosen and rejected share at their beginning;
            - ``hh_rlhf``: chosen and rejected are whole dialogues as text;
            - ``pku_saferlhf``: response_0, response_1, is_response_{0,1}_safe, safer_response_id, better_response_id;
            - ``ultrafeedback`` (binarized): chosen and rejected are whole dialogues as messages, prompt their first turn.
    Raises: RejectedRowError with the reason.
    """
    if not isinstance(row, Mapping):
        raise RejectedRowError(RejectReason.MISSING_FIELD, f"a row is a JSON object, not {type(row).__name__}")
    form = detect_format(row) if form == "auto" else form
    if form == "pku_saferlhf":
        return _checked(_pku(row))
    chosen, rejected = _needed(row, "chosen"), _needed(row, "rejected")
    if form == "hh_rlhf":
        return _checked(_implicit(_dialogue(chosen), _dialogue(rejected)))
    prompt = row.get("prompt")
    if form == "ultrafeedback":
        return _checked(_implicit(_messages(chosen, "assistant"), _messages(rejected, "assistant")))
    if prompt is not None:
        return _checked(RawPair(_messages(prompt, "user"), _answer(chosen), _answer(rejected)))
    if isinstance(chosen, str) and isinstance(rejected, str):
        return _checked(_implicit_text(chosen, rejected))
    return _checked(_implicit(_messages(chosen, "assistant"), _messages(rejected, "assistant")))


def fit_length(pair: RawPair, max_chars: int, too_long: str) -> RawPair:
    """Returns the pair with prompt and responses of at most ``max_chars`` characters each (0 = no limit).

    ``truncate``: responses lose their end, a prompt its oldest turns and then its beginning.
    Raises: RejectedRowError for a longer one where ``too_long`` is ``reject``, or where what is left is no pair.
    """
    length = sum(len(turn["content"]) for turn in pair.prompt)
    if not max_chars or max(length, len(pair.chosen), len(pair.rejected)) <= max_chars:
        return pair
    if too_long == "reject":
        seen = f"prompt {length}, chosen {len(pair.chosen)}, rejected {len(pair.rejected)} characters"
        raise RejectedRowError(RejectReason.TOO_LONG, seen)
    turns = list(pair.prompt)
    while len(turns) > 1 and length > max_chars:
        length -= len(turns.pop(0)["content"])
    turns[0] = {**turns[0], "content": turns[0]["content"][-max_chars:]}
    return _checked(RawPair(turns, pair.chosen[:max_chars], pair.rejected[:max_chars]))


def _needed(row: Mapping[str, Any], key: str) -> Any:
    value = row.get(key)
    if value is None:
        raise RejectedRowError(RejectReason.MISSING_FIELD, key)
    return value


def _pku(row: Mapping[str, Any]) -> RawPair:
    """The paper's pairing: a pair needs a safer_response_id; if one response alone is safe it is chosen, else the safer.

    Source: datagen/create_pku_dpo_dataset.py of the paper's code. Ours: a row without ``safer_response_id`` at all
    (older releases) falls back to ``better_response_id``.
    """
    responses = [_needed(row, f"response_{i}") for i in (0, 1)]
    safe = [_needed(row, f"is_response_{i}_safe") for i in (0, 1)]
    better = row.get("safer_response_id", row.get("better_response_id"))
    if better not in (0, 1):
        raise RejectedRowError(RejectReason.NO_PREFERENCE, f"safer_response_id {better!r}")
    chosen = int(better) if bool(safe[0]) == bool(safe[1]) else int(bool(safe[1]))
    return RawPair(
        _messages(_needed(row, "prompt"), "user"), _answer(responses[chosen]), _answer(responses[1 - chosen])
    )


def _messages(value: Any, role: str) -> list[Message]:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    turns = list(value) if isinstance(value, (list, tuple)) else []
    good = [
        t
        for t in turns
        if isinstance(t, Mapping) and isinstance(t.get("role"), str) and isinstance(t.get("content"), str)
    ]
    if not turns or len(good) != len(turns):
        raise RejectedRowError(RejectReason.NOT_A_DIALOGUE, f"neither text nor a list of messages: {str(value)[:80]}")
    return [{"role": t["role"], "content": t["content"]} for t in turns]


def _answer(value: Any) -> str:
    """The one turn after an explicit prompt."""
    if isinstance(value, str):
        return value
    turns = _messages(value, "assistant")
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        raise RejectedRowError(RejectReason.NOT_A_DIALOGUE, "a response is one turn, the assistant's")
    return turns[0]["content"]


def _dialogue(text: Any) -> list[Message]:
    if not isinstance(text, str):
        raise RejectedRowError(RejectReason.NOT_A_DIALOGUE, type(text).__name__)
    pieces = _TURN.split(text)
    if pieces[0].strip() or len(pieces) < 3:
        raise RejectedRowError(RejectReason.NOT_A_DIALOGUE, text[:80])
    return [
        {"role": _ROLES[who], "content": said.strip()} for who, said in zip(pieces[1::2], pieces[2::2], strict=True)
    ]


def _implicit(chosen: list[Message], rejected: list[Message]) -> RawPair:
    """The prompt is what both dialogues share; after it each must hold one turn, the assistant's."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    if shared == len(chosen) == len(rejected):
        raise RejectedRowError(RejectReason.IDENTICAL_RESPONSES, chosen[-1]["content"][:80])
    tails = chosen[shared:], rejected[shared:]
    if any(len(tail) != 1 or tail[0]["role"] != "assistant" for tail in tails):
        raise RejectedRowError(RejectReason.NOT_A_DIALOGUE, "the two dialogues differ in more than the last answer")
    return RawPair(chosen[:shared], tails[0][0]["content"], tails[1][0]["content"])


def _implicit_text(chosen: str, rejected: str) -> RawPair:
    """The prompt is the text both begin with, up to its last whole word; the blank after it goes to the responses."""
    shared = 0
    for ours, theirs in zip(chosen, rejected, strict=False):
        if ours != theirs:
            break
        shared += 1
    if shared == len(chosen) == len(rejected):
        raise RejectedRowError(RejectReason.IDENTICAL_RESPONSES, chosen[:80])
    while shared and not chosen[shared - 1].isspace():
        shared -= 1
    prompt = chosen[:shared].rstrip()
    if not prompt.strip():
        raise RejectedRowError(RejectReason.MISSING_FIELD, "prompt")
    return RawPair([{"role": "user", "content": prompt}], chosen[len(prompt) :], rejected[len(prompt) :])


def _checked(pair: RawPair) -> RawPair:
    prompt, chosen, rejected = pair
    if not prompt or prompt[-1]["role"] != "user":
        raise RejectedRowError(RejectReason.NOT_A_DIALOGUE, "the prompt does not end with a user's turn")
    for name, text in (("prompt", prompt[-1]["content"]), ("chosen", chosen), ("rejected", rejected)):
        if not text or text.isspace():
            raise RejectedRowError(RejectReason.EMPTY_FIELD, name)
    if chosen == rejected:
        raise RejectedRowError(RejectReason.IDENTICAL_RESPONSES, chosen[:80])
    return pair
