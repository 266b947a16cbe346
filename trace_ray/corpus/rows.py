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
    """Returns ``hh_rlhf`` for two whole dialogues in HH-RLHF's text form, else ``preference``."""
    chosen = row.get("chosen")
    dialogue = isinstance(chosen, str) and bool(_TURN.match(chosen))
    return "hh_rlhf" if dialogue and "prompt" not in row else "preference"


def parse_row(row: Any, form: str) -> RawPair:
    """Returns the pair in one row.

    Args:
        row: a mapping read from JSON or parquet.
        form: ``preference`` (prompt explicit or implicit, plain or conversational), ``hh_rlhf`` or ``auto``.
    Raises: RejectedRowError with the reason.
    """
    if not isinstance(row, Mapping):
        raise RejectedRowError(RejectReason.MISSING_FIELD, f"a row is a JSON object, not {type(row).__name__}")
    form = detect_format(row) if form == "auto" else form
    for key in ("chosen", "rejected"):
        if row.get(key) is None:
            raise RejectedRowError(RejectReason.MISSING_FIELD, key)
    if form == "hh_rlhf":
        pair = _implicit(_dialogue(row["chosen"]), _dialogue(row["rejected"]))
    elif row.get("prompt") is not None:
        prompt = _messages(row["prompt"], "user")
        pair = RawPair(prompt, _last_text(row["chosen"]), _last_text(row["rejected"]))
    else:
        if isinstance(row["chosen"], str):
            raise RejectedRowError(RejectReason.MISSING_FIELD, "prompt")
        pair = _implicit(_messages(row["chosen"], "assistant"), _messages(row["rejected"], "assistant"))
    return _checked(pair)


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


def _last_text(value: Any) -> str:
    return _messages(value, "assistant")[-1]["content"]


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


def _checked(pair: RawPair) -> RawPair:
    if not pair.prompt or pair.prompt[-1]["role"] != "user":
        raise RejectedRowError(RejectReason.NOT_A_DIALOGUE, "the prompt does not end with a user's turn")
    for name, text in (("prompt", pair.prompt[-1]["content"]), ("chosen", pair.chosen), ("rejected", pair.rejected)):
        if not text.strip():
            raise RejectedRowError(RejectReason.EMPTY_FIELD, name)
    if pair.chosen == pair.rejected:
        raise RejectedRowError(RejectReason.IDENTICAL_RESPONSES, pair.chosen[:80])
    return pair
