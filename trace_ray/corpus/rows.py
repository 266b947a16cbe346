"""One raw row of a public preference format -> a prompt and two responses, or the reason why not.

``formats/`` holds the formats, a file a family, and ``formats/README.md`` a row of each.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from trace_ray.config import CorpusConfig
from trace_ray.config.plugins import plugin
from trace_ray.corpus import formats
from trace_ray.corpus.formats import preference
from trace_ray.corpus.formats.base import (
    Format,
    RawPair,
    Read,
    RejectedRowError,
    Row,
    checked,
    columns_of,
    missing,
    unsupported,
)
from trace_ray.corpus.formats.columns import renamed
from trace_ray.corpus.formats.dialogues import with_system
from trace_ray.corpus.formats.layout import SYSTEM_COLUMNS, layout
from trace_ray.corpus.formats.marks import is_plain
from trace_ray.corpus.formats.refused import NO_PAIRS, NoPair, refuse
from trace_ray.errors import UserError
from trace_ray.pairs import RejectReason

__all__ = ["FORMATS", "RawPair", "RejectedRowError", "detect_format", "fit_length", "parse_row"]


def _own() -> dict[str, Format]:
    """The FORMATS of every file of the folder; ``preference`` first, since its columns are what others may have besides."""
    files = sorted(
        (found.name for found in pkgutil.iter_modules(formats.__path__)), key=lambda name: name != "preference"
    )
    modules = [importlib.import_module(f"{formats.__name__}.{name}") for name in files]
    return {format_.name: format_ for module in modules for format_ in getattr(module, "FORMATS", ())}


FORMATS = _own()
"""Every format by its name; the first whose columns a row has is the row's."""

_UNREAD = ("tools", "functions", "images", "image", "videos", "video", "audios", "audio", "documents")
"""Columns of what a prompt may show beside its turns, and a pair does not keep."""


class _Known(NamedTuple):
    format: Format | None
    no_pair: NoPair | None
    unread: tuple[str, ...]
    systems: tuple[str, ...]
    texts: bool


@lru_cache(maxsize=4096)
def _known(columns: tuple[str, ...]) -> _Known:
    names = frozenset(columns)
    format_ = next((known for known in FORMATS.values() if known.fits(names)), None)
    no_pair = next((k for k in NO_PAIRS if Format(k.name, k.columns, lambda _row, _config: []).fits(names)), None)
    unread, systems = (tuple(name for name in some if name in names) for some in (_UNREAD, SYSTEM_COLUMNS))
    texts = layout(columns).plain and {"prompt", "chosen", "rejected"} <= names and not unread and not systems
    return _Known(format_, no_pair, unread, systems, texts)


def _known_of(row: Row) -> _Known:
    return _known(columns_of(row))


def detect_format(row: Row) -> str:
    """Returns the name of the format that a row's columns tell, empty where they tell none.

    A row of ``preference`` whose answers are whole dialogues is ``hh_rlhf`` (as text) or ``ultrafeedback`` (as messages).
    """
    found = _known_of(row)
    if found.format is None:
        return found.no_pair.name if found.no_pair else ""
    return preference.shape_of(row) if found.format.name == "preference" else found.format.name


def parse_row(row: Any, config: CorpusConfig) -> list[RawPair]:
    """Returns the pair in one row, or the pairs of a ranked set, best first; ``fit_length`` has still to check each.

    Args:
        row: a mapping read from JSON, parquet or Arrow.
        config: ``format`` (``auto`` = by the row's columns), ``columns``, ``pairs`` and ``min_margin`` decide.
    Raises: RejectedRowError with the reason.
    """
    if not isinstance(row, Mapping):
        raise RejectedRowError(RejectReason.MISSING_FIELD, f"a row is a JSON object, not {type(row).__name__}")
    if config.columns:
        row = renamed(row, config.columns)
    found = _known_of(row)
    if found.texts and config.format == "auto" and is_plain(row["prompt"], row["chosen"], row["rejected"]):
        return [
            RawPair([{"role": "user", "content": row["prompt"]}], row["chosen"], row["rejected"])
        ]  # most rows there are
    for name in found.unread:
        if row[name] and row[name] != "[]":
            raise unsupported(f"the row has {name}: pairs hold role and content alone")
    pairs = _reader(found, row, config)(row, config)
    for name in found.systems:
        pairs = [with_system(pair, row[name]) for pair in pairs]
    return pairs


def _reader(found: _Known, row: Row, config: CorpusConfig) -> Read:
    if config.format != "auto":
        return (FORMATS.get(config.format) or _brought(config.format)).read
    if found.format is not None:
        return found.format.read
    if found.no_pair is not None:
        refuse(found.no_pair)
    raise missing(row, "no two answers, such as chosen and rejected")


@lru_cache
def _brought(name: str) -> Format:
    """Returns another package's format."""
    found = plugin("formats", name, "corpus.format")
    if not isinstance(found, Format):
        remedy = f"it is {type(found).__name__}, no trace_ray.corpus.formats.base.Format"
        raise UserError("corpus.format", name, remedy)
    return found


def fit_length(pair: RawPair, max_chars: int, too_long: str) -> RawPair:
    """Returns the pair, checked, with prompt and responses of at most ``max_chars`` characters each (0 = no limit).

    ``truncate``: responses lose their end, a prompt its oldest turns and then its beginning.
    Raises: RejectedRowError for a longer one where ``too_long`` is ``reject``, or where there is, or is left, no pair.
    """
    pair = checked(pair)
    if not max_chars:
        return pair
    length = sum(len(turn["content"]) for turn in pair.prompt)
    if max(length, len(pair.chosen), len(pair.rejected)) <= max_chars:
        return pair
    if too_long == "reject":
        seen = f"prompt {length}, chosen {len(pair.chosen)}, rejected {len(pair.rejected)} characters"
        raise RejectedRowError(RejectReason.TOO_LONG, seen)
    turns = list(pair.prompt)
    while len(turns) > 1 and length > max_chars:
        length -= len(turns.pop(0)["content"])
    turns[0] = {**turns[0], "content": turns[0]["content"][-max_chars:]}
    return checked(RawPair(turns, pair.chosen[:max_chars], pair.rejected[:max_chars]))
