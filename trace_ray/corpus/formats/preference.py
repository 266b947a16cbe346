"""Rows with a better and a worse answer: TRL, HH-RLHF, UltraFeedback binarized, sharegpt, OpenAI, Axolotl and their kin."""

from __future__ import annotations

from itertools import product
from typing import Any

from trace_ray.config import CorpusConfig
from trace_ray.corpus.formats.base import (
    Format,
    RawPair,
    RejectedRowError,
    Row,
    missing,
    needed,
    no_dialogue,
    no_preference,
    shown,
    unsupported,
)
from trace_ray.corpus.formats.dialogues import answer_turns, join, shared
from trace_ray.corpus.formats.labels import hold_margin, number
from trace_ray.corpus.formats.layout import ANSWERS, VERDICTS, Layout, layout_of
from trace_ray.corpus.formats.marks import is_hh, turns_of_text
from trace_ray.corpus.formats.prompts import is_texts, prompt_beside
from trace_ray.pairs import RejectReason


def read_preference(row: Row, config: CorpusConfig) -> list[RawPair]:
    """Reads ``{prompt, chosen, rejected}``, each a text, turns or a whole dialogue, under any name that is in use."""
    layout = layout_of(row)
    if layout.answers is None:
        raise missing(row, "no chosen and rejected")
    chosen, rejected = row[layout.answers[0]], row[layout.answers[1]]
    if layout.plain and row["prompt"] not in ("", []) and not is_texts(chosen):
        return [join(row["prompt"], chosen, rejected)]
    if layout.labelled:
        _hold_labels(row, layout, config)
    if is_texts(chosen) and is_texts(rejected):
        several = list(product(chosen, rejected))
        kept = several if config.pairs == "all" else several[:1]
        return [_pair(row, layout, good, bad) for good, bad in kept]
    return [_pair(row, layout, chosen, rejected)]


def _hold_labels(row: Row, layout: Layout, config: CorpusConfig) -> None:
    for name in VERDICTS:
        if isinstance(said := row.get(name), str) and said.strip().lower() == "tie":
            raise no_preference(f"{name} is {said!r}")
    for names in layout.scores:
        good, bad = (number(row[name]) for name in names)
        if good is not None and bad is not None:
            hold_margin(good - bad, config, f"{names[0]} {good:g}, {names[1]} {bad:g}")


def _pair(row: Row, layout: Layout, chosen: Any, rejected: Any) -> RawPair:
    prompt = prompt_beside(row, layout, chosen, rejected) if layout.prompts or layout.dialogues else None
    if prompt is not None:
        return join(prompt, chosen, rejected)
    good, bad = answer_turns(chosen, marked=False), answer_turns(rejected, marked=False)
    if good[0]["content"] is chosen and bad[0]["content"] is rejected:
        _refuse_other_words(row, layout)
        return _implicit_text(chosen, rejected, row)
    pair = shared(good, bad)
    if not pair.prompt:
        raise missing(row, "no prompt: the answers begin with no turn of a user")
    return pair


def _refuse_other_words(row: Row, layout: Layout) -> None:
    """A prompt is made from the answers' common words only where no column may hold it."""
    for name in layout.others:
        if row[name] and isinstance(row[name], (str, list, tuple, dict)):
            raise missing(row, f"no prompt: if {name} is it, set corpus.columns={{prompt: {name}}}")


def _implicit_text(chosen: str, rejected: str, row: Row) -> RawPair:
    """TRL's implicit prompt: the text both begin with, up to its last whole word; the blank after it goes to the answers."""
    same = 0
    for ours, theirs in zip(chosen, rejected, strict=False):
        if ours != theirs:
            break
        same += 1
    if same == len(chosen) == len(rejected):
        raise RejectedRowError(RejectReason.IDENTICAL_RESPONSES, chosen[:80])
    while same and not chosen[same - 1].isspace():
        same -= 1
    prompt = chosen[:same].rstrip()
    if not prompt.strip():
        raise missing(row, "no prompt")
    return join(prompt, chosen[len(prompt) :], rejected[len(prompt) :])


def read_hh(row: Row, config: CorpusConfig) -> list[RawPair]:
    """Reads chosen and rejected that are whole dialogues as text, as HH-RLHF has them."""
    for name in ("chosen", "rejected"):
        text = row.get(name)
        if text is None:
            raise missing(row, f"no {name}")
        if not isinstance(text, str) or not is_hh(text):
            raise no_dialogue(f"{name} is no dialogue of Human: and Assistant: {shown(text)}")
    return read_preference(row, config)


def read_ultrafeedback(row: Row, config: CorpusConfig) -> list[RawPair]:
    """Reads chosen and rejected that are whole dialogues as messages, as UltraFeedback binarized has them."""
    for name in ("chosen", "rejected"):
        value = row.get(name)
        if value is None:
            raise missing(row, f"no {name}")
        if isinstance(value, str) and turns_of_text(value) is None:
            raise no_dialogue(f"{name} is no list of messages: {shown(value)}")
    return read_preference(row, config)


def shape_of(row: Row) -> str:
    """Returns which of the formats below a row is, of those that have the same columns."""
    chosen = row.get("chosen")
    if isinstance(chosen, str) and is_hh(chosen):
        return "hh_rlhf"
    whole = isinstance(chosen, (list, tuple)) and len(chosen) > 1 and not is_texts(chosen)
    return "ultrafeedback" if isinstance(row.get("prompt"), str) and whole else "preference"


def read_openai(row: Row, _config: CorpusConfig) -> list[RawPair]:
    """Reads ``{"input": {"messages", "tools"}, "preferred_output", "non_preferred_output"}``."""
    asked = needed(row, "input")
    if not isinstance(asked, dict) or asked.get("messages") is None:
        raise no_dialogue(f"input holds no messages: {shown(asked)}")
    if asked.get("tools"):
        raise unsupported("input has tools: pairs hold no tool calls")
    return [join(asked["messages"], needed(row, "preferred_output"), needed(row, "non_preferred_output"))]


_BETTER, _WORSE = ("|".join(dict.fromkeys(side)) for side in zip(*ANSWERS, strict=True))
FORMATS = (
    Format("openai", ("input", "preferred_output", "non_preferred_output"), read_openai),
    Format("preference", (_BETTER, _WORSE), read_preference),
    Format("hh_rlhf", (_BETTER, _WORSE), read_hh),
    Format("ultrafeedback", (_BETTER, _WORSE), read_ultrafeedback),
)
