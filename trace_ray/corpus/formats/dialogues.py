"""Prompt and two answers, each in whatever shape, put together: no turn is lost, and none is taken for another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trace_ray.corpus.formats.base import RawPair, RejectedRowError, no_dialogue, shown, unsupported
from trace_ray.corpus.formats.marks import (
    answer_of_rendered,
    begins_rendered,
    ends_rendered,
    is_hh,
    is_plain,
    turns_of_text,
)
from trace_ray.corpus.formats.turns import turns
from trace_ray.pairs import Message, RejectReason


def join(prompt: Any, chosen: Any, rejected: Any) -> RawPair:
    """Returns the pair of a prompt and two answers: text, turns, or whole dialogues that repeat the prompt.

    Args:
        prompt: text, turns in any shape or None, where the two dialogues hold it.
        chosen, rejected: the same.
    Raises: RejectedRowError where they do not fit together.
    """
    if is_plain(prompt, chosen, rejected):
        return RawPair([{"role": "user", "content": prompt}], chosen, rejected)
    asked = [] if prompt is None else turns(prompt, "user")
    marked = (
        isinstance(prompt, str) and asked[0]["content"] is not prompt and (is_hh(prompt) or begins_rendered(prompt))
    )
    good, bad = answer_turns(chosen, marked=marked), answer_turns(rejected, marked=marked)
    if asked and is_answer(good) and is_answer(bad):
        return RawPair(asked, good[0]["content"], bad[0]["content"])
    if asked and is_answer(good) != is_answer(bad):
        raise no_dialogue("one answer is a whole dialogue, the other is not")
    pair = shared(good, bad)
    return pair if not asked or asked == pair.prompt else pair._replace(prompt=agreed(asked, pair.prompt))


def answer_turns(value: Any, *, marked: bool) -> list[Message]:
    """Returns an answer, or the whole dialogue that it ends. ``marked``: the prompt was written with marks of turns."""
    if type(value) is not str:
        return turns(value, "assistant")
    if marked and turns_of_text(value) is None:
        return [{"role": "assistant", "content": answer_of_rendered(value)}]
    found = turns(value, "assistant")
    if ends_rendered(found[-1]["content"]):
        raise no_dialogue(f"already rendered with a chat template: ...{found[-1]['content'].rstrip()[-20:]!r}")
    return found


def is_answer(found: Sequence[Message]) -> bool:
    """Returns whether turns are one answer, and no dialogue."""
    return len(found) == 1 and found[0]["role"] == "assistant"


def shared(chosen: list[Message], rejected: list[Message]) -> RawPair:
    """The prompt is what both dialogues share; after it each must hold one turn, the assistant's."""
    same, shorter = 0, min(len(chosen), len(rejected))
    while same < shorter and chosen[same] == rejected[same]:
        same += 1
    if same == len(chosen) == len(rejected):
        raise RejectedRowError(RejectReason.IDENTICAL_RESPONSES, chosen[-1]["content"][:80])
    good, bad = chosen[same:], rejected[same:]
    if not is_answer(good) or not is_answer(bad):
        raise no_dialogue("the two dialogues differ in more than the last answer")
    return RawPair(chosen[:same], good[0]["content"], bad[0]["content"])


def with_system(pair: RawPair, system: Any) -> RawPair:
    """Returns the pair with the text of a row's system column as the first turn, if there is one in it.

    Raises: RejectedRowError where the prompt begins with another system turn already.
    """
    found = [{"role": "system", "content": system}] if isinstance(system, str) else turns(system, "system")
    if len(found) != 1 or found[0]["role"] != "system":
        raise unsupported(f"the system column is no text: {shown(system)}")
    blank = not found[0]["content"].strip()
    return pair if blank else pair._replace(prompt=_with_first(found[0], pair.prompt))


def _with_first(system: Message, asked: list[Message]) -> list[Message]:
    if not asked or asked[0]["role"] != "system":
        return [system, *asked]
    if asked[0]["content"].strip() != system["content"].strip():
        raise no_dialogue(f"two system turns that differ: {shown(system['content'])} and {shown(asked[0]['content'])}")
    return asked


def agreed(asked: list[Message], told: list[Message]) -> list[Message]:
    """Returns the prompt of two whole dialogues, given the prompt that stands beside them.

    It may be all of it, its first or last question, or all of it written as one text.
    Raises: RejectedRowError where the two differ.
    """
    if asked[0]["role"] == "system":
        told, asked = _with_first(asked[0], told), asked[1:]
    rest = told[1:] if told and told[0]["role"] == "system" else told
    if not asked or _texts(asked) == _texts(rest):
        return told
    texts = [text for _, text in _texts(rest)]
    if rest and len(asked) == 1 and asked[0]["role"] == "user":
        said = asked[0]["content"].strip()
        if said in (texts[0], texts[-1]) or all(text in said for text in texts):
            return told
    raise no_dialogue(f"the prompt differs from the dialogues' first turns: {shown(asked[0]['content'])}")


def _texts(some: Sequence[Message]) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"].strip()) for turn in some]
