"""The prompt that stands beside two answers, under whatever name; two columns that differ are never chosen between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trace_ray.corpus.formats.base import RejectedRowError, Row, no_dialogue, shown
from trace_ray.corpus.formats.dialogues import answer_turns
from trace_ray.corpus.formats.layout import Layout
from trace_ray.corpus.formats.marks import turns_of_text
from trace_ray.corpus.formats.turns import turns
from trace_ray.pairs import Message, RejectReason


def is_texts(value: Any) -> bool:
    """Returns whether a value is a list of texts, and not an empty one."""
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(text, str) for text in value)


def prompt_beside(row: Row, layout: Layout, chosen: Any, rejected: Any) -> Any:
    """Returns the prompt that stands beside the answers; None where they hold it themselves.

    Raises: RejectedRowError where two columns could be it and differ.
    """
    found = _candidates(row, layout)
    before = _turns_before(row, layout, chosen, rejected) if layout.dialogues else None
    if len(found) == 1 and not before:
        return found[0][1]
    if not found:
        if layout.prompts and not before and not _hold_a_prompt(chosen, rejected):
            raise RejectedRowError(RejectReason.EMPTY_FIELD, layout.prompts[0])
        return before
    name, taken = found[0]
    text = "\n".join(turn["content"] for turn in turns(taken, "user"))
    for other, value in found[1:]:
        _hold_within(turns(value, "user"), text, name, other)
    if before and name == "instruction" and "history" in layout.dialogues:
        return [*before, *turns(taken, "user")]
    _hold_within(before or [], text, name, layout.dialogues[0] if before else "")
    return taken


def _candidates(row: Row, layout: Layout) -> list[tuple[str, Any]]:
    """Returns name and value of each column that may be the prompt and is not empty, ``instruction`` with its ``input``."""
    found = [(name, row[name]) for name in layout.prompts if row[name] not in ("", [])]
    instruction, more = (dict(found).get(name) for name in ("instruction", "input")) if len(found) > 1 else (None, None)
    if not isinstance(instruction, str) or not isinstance(more, str) or not instruction.strip() or not more.strip():
        return found
    joined = f"{instruction}\n\n{more}"
    return [(name, joined if name == "instruction" else value) for name, value in found if name != "input"]


def _hold_a_prompt(chosen: Any, rejected: Any) -> bool:
    """Whether one of the answers is more than a plain text, and so may be a whole dialogue."""
    return any(not isinstance(text, str) or turns_of_text(text) is not None for text in (chosen, rejected))


def _hold_within(some: Sequence[Message], text: str, name: str, other: str) -> None:
    """Raises RejectedRowError where a second column that may be the prompt says more than the first."""
    for turn in some:
        if turn["content"].strip() not in text:
            remedy = f"corpus.columns says which of them is the prompt, such as {{prompt: {name}}}"
            raise no_dialogue(f"{name} and {other} differ: {remedy}; {other} has {shown(turn['content'])}")


def _turns_before(row: Row, layout: Layout, chosen: Any, rejected: Any) -> list[Message] | None:
    """Returns the dialogue that the answers go on, without the answer that it may end with."""
    for name in layout.dialogues:
        value = row[name]
        if value in ("", []):
            continue
        found = _pairs_of_turns(value) or turns(value, "user")
        if name == "history" or found[-1]["role"] != "assistant":
            return found
        whole = [answer_turns(answer, marked=False) for answer in (chosen, rejected)]
        if max(map(len, whole)) > 1:
            return None  # the dialogue of one of the answers once more: what is asked is in both
        if found[-1]["content"].strip() in [answer[-1]["content"].strip() for answer in whole]:
            return found[:-1]
        return found
    return None


def _pairs_of_turns(value: Any) -> list[Message] | None:
    """``[[question, answer], ...]``, as LLaMA-Factory's history has it."""
    if not isinstance(value, (list, tuple)) or not all(is_texts(exchange) and len(exchange) == 2 for exchange in value):
        return None
    return [
        {"role": role, "content": text}
        for exchange in value
        for role, text in zip(("user", "assistant"), exchange, strict=True)
    ]
