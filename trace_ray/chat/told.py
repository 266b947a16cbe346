"""What is said about rows that lost text to ``model.max_length``, on the terminal and in the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

_SIDES = ("prompt", "chosen", "rejected", "corrected")


def cut_counts(cuts: Iterable[Sequence[str] | None]) -> dict[str, int]:
    """Returns how many rows lost text to ``model.max_length``: ``rows`` in all, and by side.

    >>> cut_counts([[], ["prompt", "chosen"], ["chosen"]])
    {'rows': 3, 'cut': 2, 'prompt': 1, 'chosen': 2, 'rejected': 0, 'corrected': 0}
    """
    counts = dict.fromkeys(("rows", "cut", *_SIDES), 0)
    for sides in cuts:
        counts["rows"] += 1
        counts["cut"] += bool(sides)
        for side in sides or ():
            counts[side] += 1
    return counts


def cut_warning(counts: Mapping[str, int], refused: Mapping[str, int], max_length: int) -> str:
    """Returns what is to be said about cut and refused rows; empty where there are none."""
    said = []
    if counts["cut"]:
        sides = ", ".join(f"{counts[side]:,} {side}" for side in _SIDES if counts[side])
        share = 100 * counts["cut"] / counts["rows"]
        said.append(
            f"{counts['cut']:,} of {counts['rows']:,} rows ({share:.1f} %) are cut at {max_length} tokens: {sides}"
        )
    if refused:
        kinds = ", ".join(f"{rows:,} {reason}" for reason, rows in sorted(refused.items()))
        said.append(f"{sum(refused.values()):,} rows refused: {kinds}")
    return "; ".join(said)
