"""Which ``corpus.columns`` would make pairs of rows that the formats do not know: guessed from names, then tried."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from trace_ray.config import CorpusConfig
from trace_ray.corpus.rows import RejectedRowError, fit_length, parse_row

Row = Mapping[str, Any]

_WORDS: dict[str, tuple[str, ...]] = {
    "prompt": (
        *("prompt", "prompts", "question", "query", "instruction", "request", "ask", "asked", "problem", "user"),
        *("human", "dialogue", "dialog", "conversation", "task", "context", "input", "text"),
    ),
    "chosen": (
        *("chosen", "accepted", "preferred", "better", "best", "winning", "winner", "win", "good", "positive", "pos"),
        *("safe", "w", "yw"),
    ),
    "rejected": (
        *("rejected", "dispreferred", "worse", "worst", "losing", "loser", "lose", "bad", "negative", "neg"),
        *("unsafe", "l", "yl"),
    ),
}
"""Words of a column's name that say what it is, the clearest first."""

_TURNED = {"non", "not", "un", "dis", "less", "id", "ids", "score", "scores", "rating", "model", "reward"}
"""Words beside which they say something else."""

_TRIED_ROWS, _TRIED_NAMES = 20, 3


def working_columns(rows: Sequence[Row], config: CorpusConfig) -> dict[str, str]:
    """Returns a mapping under which most of the rows are pairs, nothing where none is found.

    Args:
        rows: the first of a file.

    >>> rows = [{"ask": "Why?", "texts": {"better": "So.", "worse": "No."}}]
    >>> working_columns(rows, CorpusConfig())
    {'prompt': 'ask', 'chosen': 'texts.better', 'rejected': 'texts.worse'}
    """
    some = rows[:_TRIED_ROWS]
    if not some:
        return {}
    paths = list(_paths(some[0], ""))
    guesses = [_guessed(paths, words) for words in _WORDS.values()]
    for found in product(*guesses):
        columns = {name: path for name, path in zip(_WORDS, found, strict=True) if path and path != name}
        asked = replace(config, columns=columns, format="auto")
        if columns and len(set(found)) == len(found) and 2 * sum(_is_pair(row, asked) for row in some) > len(some):
            return columns
    return {}


def _paths(row: Row, before: str) -> Iterator[str]:
    """Dotted paths of the values that may be a text or a dialogue."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{before}{name}.")
        elif isinstance(value, (str, list)) and value:
            yield f"{before}{name}"


def _guessed(paths: Sequence[str], words: Sequence[str]) -> list[str]:
    """The paths whose names say one of the words, the clearest first; a path's last name is clearer than those above."""
    ranked = []
    for path in paths:
        named = [set(re.findall(r"[a-z]+", piece.lower())) for piece in reversed(path.split("."))]
        if _TURNED & set().union(*named):
            continue
        ranks = [(words.index(word), depth) for depth, own in enumerate(named) for word in own & set(words)]
        if ranks:
            ranked.append((min(ranks), path))
    return [path for _, path in sorted(ranked)][:_TRIED_NAMES]


def _is_pair(row: Row, config: CorpusConfig) -> bool:
    try:
        return any(fit_length(pair, 0, "reject") for pair in parse_row(row, config))
    except RejectedRowError:
        return False
