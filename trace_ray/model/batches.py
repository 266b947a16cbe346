"""Groups sequences of like length into batches of a bounded number of padded tokens."""

from __future__ import annotations

from collections.abc import Sequence

MAX_WASTE = 0.05


def token_batches(lengths: Sequence[int], max_tokens: int, max_waste: float = MAX_WASTE) -> list[list[int]]:
    """Returns lists of indices, longest sequences first, each list's count x longest <= max_tokens (or one sequence).

    A batch also ends where one sequence more would make more than ``max_waste`` of its padded tokens padding: where
    lengths differ much, batches are small rather than wasteful.

    >>> token_batches([10, 30, 11, 29], 60)
    [[1, 3], [2, 0]]
    """
    batches: list[list[int]] = []
    longest = filled = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = max(1, lengths[index])
        padded = longest * (len(batches[-1]) + 1) if batches else 0
        if not batches or padded > max_tokens or filled + length < (1 - max_waste) * padded:
            batches.append([])
            longest, filled = length, 0
        batches[-1].append(index)
        filled += length
    return batches
