"""What a probe times: as many tokens as take this machine seconds, fewer than a run's forwards where it is slow. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

from trace_ray.model.batches import token_batches
from trace_ray.realign.layout import plan_step

if TYPE_CHECKING:
    from trace_ray.model.packing import Packed

PATIENCE_S = 2.0
"""Of one forward that is timed, or of one with its backward."""
LEAST_TOKENS = 256
"""Of it: fewer would time what a forward costs whatever its tokens."""
BACKWARD = 3.0
"""A forward and its backward in forwards."""


class Unit(NamedTuple):
    """What is run at once.

    Args:
        groups: packed rows, each group one forward; tokens: unpadded, a prompt counted with each response.
    """

    groups: list[list[Packed]]
    tokens: int


def affordable(budget: int, seconds_a_token: float) -> int:
    """Returns the tokens that are run in ``PATIENCE_S``: a run's ``budget`` where it is no more than that.

    >>> affordable(4096, 1e-5), affordable(4096, 4e-3), affordable(4096, 1.0)
    (4096, 500, 256)
    """
    return min(budget, max(LEAST_TOKENS, int(PATIENCE_S / max(seconds_a_token, 1e-9))))


def forward_units(sequences: Sequence[Packed], budget: int) -> list[Unit]:
    """Returns full batches of a forward of ``budget`` padded tokens."""
    lengths = [len(row) for row in sequences]
    return [
        Unit([[sequences[i] for i in batch]], sum(lengths[i] for i in batch))
        for batch in token_batches(lengths, budget)
    ]


def training_units(pairs: Sequence[Sequence[Packed]], size: int, budget: int, overhead: int) -> list[Unit]:
    """Returns the micro-steps of one worker over the pairs, step by step.

    Args:
        pairs: the rows of each, one where its responses share their prompt.
        size: pairs of a step; budget, overhead: see ``plan_step``.
    """
    found = []
    for at in range(0, len(pairs), size):
        mine = pairs[at : at + size]
        tokens = [[len(row) for row in rows] for rows in mine]
        anchored, shared = [[False] * len(rows) for rows in mine], [len(rows) == 1 for rows in mine]
        for step in plan_step(tokens, anchored, shared, workers=1, budget=budget, overhead=overhead):
            rows = [row for i in step.samples[0] for row in mine[i]]
            groups = [[rows[i] for i in group] for group in step.groups[0]]
            found.append(Unit(groups, sum(map(_tokens_apart, rows))))
    return found


def _tokens_apart(row: Packed) -> int:
    return sum(len(row.prompt_ids) + len(ids) for ids in row.response_ids)


def rate(run: Callable[[Unit], object], units: Sequence[Unit], least_s: float) -> float:
    """Returns the tokens a second over units spread through the list, each seen at most once more than another."""
    done, started = 0, perf_counter()
    for unit in cycle(_spread(units)):
        run(unit)
        done += unit.tokens
        if (seconds := perf_counter() - started) > least_s:
            return done / seconds
    raise AssertionError("no unit")


def _spread(units: Sequence[Unit]) -> Iterator[Unit]:
    """The units in an order whose every beginning is a fair sample of long and short ones."""
    stride = max(1, len(units) // 8)
    for start in range(stride):
        yield from units[start::stride]


def whole_peak(held: float, peak: float, timed: Sequence[Unit], whole: Sequence[Unit]) -> float:
    """Returns the peak of a run's own units, from that of smaller ones: what a forward holds grows with its tokens.

    Args:
        held: before a forward, gradients included; peak: of the timed ones; of one unit, all likewise.
    """
    share = max(unit.tokens for unit in timed) / max(unit.tokens for unit in whole)
    return held + max(0.0, peak - held) / min(1.0, share)
