"""What a label says, in whatever way a file writes it; what says nothing sure is no label."""

from __future__ import annotations

import math
from typing import Any

from trace_ray.config import CorpusConfig
from trace_ray.corpus.formats.base import Row, no_preference, shown

_TRUE, _FALSE = {"true", "yes", "1", "1.0"}, {"false", "no", "0", "0.0"}


def truth(row: Row, name: str) -> bool:
    """Returns a column of yes or no: true, 1, 1.0, "True", "yes" and their opposites.

    Raises: RejectedRowError for any other value.
    """
    value = row.get(name)
    if value is True or value is False:
        return value
    said = str(value).strip().lower() if isinstance(value, (bool, int, float, str)) else ""
    if said in _TRUE:
        return True
    if said in _FALSE:
        return False
    raise no_preference(f"{name} is {shown(value)}, neither true nor false")


def number(value: Any) -> float | None:
    """Returns a number, also where it is written as text; None for anything else, infinities and NaN.

    >>> number("4.5"), number(True), number("N/A"), number(None)
    (4.5, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def which(row: Row, name: str) -> int:
    """Returns which of two answers a column of 0 or 1 prefers: 1, 1.0, "1".

    Raises: RejectedRowError for any other value, such as -1 for a tie.
    """
    value = row.get(name)
    found = value if type(value) is int else number(value)
    if found not in (0, 1):
        raise no_preference(f"{name} is {shown(value)}, neither 0 nor 1")
    return int(found)


def hold_margin(margin: float, config: CorpusConfig, said: str) -> None:
    """Raises: RejectedRowError where the preferred answer is not ahead, or by less than ``corpus.min_margin``."""
    if margin <= 0:
        raise no_preference(f"{said}: the preferred answer is not ahead")
    if margin < config.min_margin:
        raise no_preference(f"{said}: a margin of {margin:g} is below corpus.min_margin = {config.min_margin:g}")
