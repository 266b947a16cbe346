"""Kinds of public rows that are no preference pairs: each is refused by its name, with what it would take."""

from __future__ import annotations

from typing import NamedTuple, NoReturn

from trace_ray.corpus.formats.base import RejectedRowError
from trace_ray.pairs import RejectReason


class NoPair(NamedTuple):
    """What is known by its columns to be no pair: its name, the columns (``a|b`` = one of the two), and why."""

    name: str
    columns: tuple[str, ...]
    why: str


NO_PAIRS = (
    NoPair(
        "kto",
        ("completion", "label"),
        "a KTO row: one answer and whether it is good; a pair needs two answers to one prompt",
    ),
    NoPair("kto", ("kto_tag",), "a KTO row: one answer and whether it is good; a pair needs two answers to one prompt"),
    NoPair(
        "one rated answer",
        ("response", "helpfulness|is_safe|score|rating"),
        "one rated answer a row; a pair needs two answers to one prompt (HelpSteer2: take its folder preference/)",
    ),
    NoPair(
        "steps",
        ("completions", "labels"),
        "the steps of one answer with labels; a pair needs two answers to one prompt",
    ),
    NoPair(
        "tree", ("message_id", "parent_id"), "one message of a tree; a pair needs two answers to one prompt in one row"
    ),
    NoPair(
        "answers to imitate",
        ("prompt|instruction|question", "completion|response|output|answer"),
        "one answer a row, to be imitated; a pair needs two answers to one prompt",
    ),
    NoPair(
        "dialogue",
        ("messages|conversations|conversation",),
        "one dialogue a row; a pair needs two answers to one prompt",
    ),
    NoPair("text", ("text",), "one text a row; a pair needs two answers to one prompt"),
)


def refuse(kind: NoPair) -> NoReturn:
    """Raises: RejectedRowError with the kind's reason."""
    raise RejectedRowError(RejectReason.NOT_A_PAIR, kind.why)
