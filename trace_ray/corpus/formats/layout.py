"""Which of a row's columns hold prompt, answers and scores, by the names that public files give them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from trace_ray.corpus.formats.base import Row, columns_of

SYSTEM_COLUMNS = ("system", "system_prompt", "system_message")
"""Columns of the first turn."""

ANSWERS = (
    ("chosen", "rejected"),
    ("chosen_response", "rejected_response"),
    ("response_chosen", "response_rejected"),
    ("chosen_answer", "rejected_answer"),
    ("accepted", "rejected"),
    ("preferred_output", "non_preferred_output"),
    ("preferred", "dispreferred"),
    ("response_j", "response_k"),
)
"""Columns of the better and the worse answer."""

PROMPTS = ("prompt", "question", "query", "instruction", "input", "context")
"""Columns of the prompt, the first that is there; ``instruction`` and ``input`` are joined."""

DIALOGUES = ("messages", "conversations", "conversation", "trajectory", "history")
"""Columns of the turns before the answers. They may end with one of the answers once more."""

SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("rating_chosen", "rating_rejected"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_reward", "rejected_reward"),
)

VERDICTS = ("status", "winner")
"""Columns that may say that the answers tied."""

_ABOUT = re.compile(
    r"(.*[_-])?(id|ids|uuid|idx|index|hash|sha256|source|sources|dataset|subset|split|category|categories|domain|language"
    r"|lang|model|models|score|scores|rating|ratings|reward|rank|margin|type|task|tags|topic|license|url|date|timestamp"
    r"|metadata|meta|status|winner|label|labels|difficulty|tokens|worker|annotator|version|length|count)"
)
"""Columns that say something about a row; with any other text in it a row's prompt is not guessed."""


class Layout(NamedTuple):
    """Which of a row's columns mean what; ``plain``: there is nothing but a prompt beside the answers."""

    answers: tuple[str, str] | None
    prompts: tuple[str, ...]
    dialogues: tuple[str, ...]
    scores: tuple[tuple[str, str], ...]
    others: tuple[str, ...]
    labelled: bool
    plain: bool


@lru_cache(maxsize=4096)
def layout(columns: tuple[str, ...]) -> Layout:
    """Returns what columns of these names mean."""
    answers = next((pair for pair in ANSWERS if pair[0] in columns and pair[1] in columns), None)
    prompts = tuple(name for name in PROMPTS if name in columns)
    dialogues = tuple(name for name in DIALOGUES if name in columns)
    scores = tuple(pair for pair in SCORES if pair[0] in columns and pair[1] in columns)
    known = {*(answers or ()), *prompts, *dialogues, *SYSTEM_COLUMNS}
    others = tuple(name for name in columns if name not in known and not _ABOUT.fullmatch(name.lower()))
    labelled = bool(scores) or any(name in columns for name in VERDICTS)
    plain = prompts == ("prompt",) and not dialogues and not labelled
    return Layout(answers, prompts, dialogues, scores, others, labelled, plain)


def layout_of(row: Row) -> Layout:
    """Returns what a row's columns mean, those that are not null."""
    return layout(columns_of(row))
