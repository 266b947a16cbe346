"""How many rows are refused, and why, in the words that terminal and report share."""

from __future__ import annotations

from collections.abc import Mapping

REFUSED_PERCENT = 1.0
"""Of the rows: where more are refused, it is a problem."""


def many_refused(rejects: Mapping[str, int], rows: int) -> bool:
    """Returns whether so many of the rows read are refused that a user must know."""
    return 100 * sum(rejects.values()) > REFUSED_PERCENT * rows


def refused_share(rejects: Mapping[str, int], rows: int, what: str = "rows") -> str:
    """Returns how many rows are refused and the reasons, most first; ``what`` they are called.

    >>> refused_share({"too_long": 3, "missing_field": 10}, 1000)
    '13 of 1,000 rows are refused (1.3 %): missing_field 10, too_long 3'
    """
    number = sum(rejects.values())
    named = ", ".join(
        f"{reason} {count:,}" for reason, count in sorted(rejects.items(), key=lambda counted: -counted[1])
    )
    return f"{number:,} of {rows:,} {what} are refused ({100 * number / max(1, rows):.2g} %): {named}"
