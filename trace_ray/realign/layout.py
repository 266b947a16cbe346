"""How the samples of a step become forwards: micro-batches by a token budget, and in each groups of rows of like length.

A sample is run as one row a response, or, where its responses share their prompt, as one row (``model.sharing``).

Pure, and the same on every rank: each knows what the others run, so all run the same number and kind of forwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Lengths = Sequence[int]


@dataclass(frozen=True)
class MicroStep:
    """One forward and backward of every worker.

    Args:
        samples: by worker, the samples of the step that it takes.
        groups: by worker, its rows (numbered through its samples, in order) in groups of like length, shared rows
            apart from others; every worker has as many groups, empty ones where it has less to run.
        anchored: for each group whether any worker takes a KL there, so that all run the reference or none does.
    """

    samples: list[list[int]]
    groups: list[list[list[int]]]
    anchored: list[bool]


def plan_step(
    samples: Sequence[Lengths],
    anchored: Sequence[Sequence[bool]],
    shared: Sequence[bool],
    *,
    workers: int,
    budget: int,
    overhead: int,
    flat: bool = False,
) -> list[MicroStep]:
    """Returns the micro-steps of one step.

    Args:
        samples: for each sample the tokens of its rows.
        anchored: for each sample which of its rows are compared with the reference by KL.
        shared: which samples are one row of several responses.
        workers, budget: see ``split_step``; overhead: see ``group_rows``.
        flat: whether rows are run one after the other: then lengths need not be alike, and one group holds all.
    """
    steps = []
    for dealt in split_step(samples, workers, budget, flat=flat):
        rows = [[(n, shared[i]) for i in mine for n in samples[i]] for mine in dealt]
        if flat:
            groups = [[list(range(len(mine)))] for mine in rows]
        else:
            groups = [group_rows([n for n, _ in mine], [kind for _, kind in mine], overhead) for mine in rows]
        slots = max(1, *(len(g) for g in groups))
        groups = [g + [[] for _ in range(slots - len(g))] for g in groups]
        marks = [[mark for i in mine for mark in anchored[i]] for mine in dealt]
        used = [any(mark[s] for g, mark in zip(groups, marks, strict=True) for s in g[slot]) for slot in range(slots)]
        steps.append(MicroStep(dealt, groups, used))
    return steps


def split_step(samples: Sequence[Lengths], workers: int, budget: int, *, flat: bool = False) -> list[list[list[int]]]:
    """Returns [micro-step][worker] -> samples, each sample once; like lengths meet in one micro-batch.

    Args:
        samples: for each sample of the step the tokens of its rows.
        workers: among whom each micro-step is dealt; one may get nothing.
        budget: padded tokens of a micro-batch at most; a sample above it runs alone.
        flat: whether there is no padding.

    >>> split_step([[5, 9], [4], [8, 8], [3]], workers=2, budget=16)
    [[[0], [2]], [[1], [3]]]
    """
    order = sorted(range(len(samples)), key=lambda i: (-max(samples[i]), i))
    if flat:
        order = list(range(len(samples)))
    bins = _fill(order, samples, budget, flat=flat)
    parts = -(-len(bins) // workers) * workers
    if len(samples) >= parts and (flat or parts > len(bins)):
        even = _even(order, samples, parts)
        bins = even if all(_run(samples, part, flat=flat) <= budget or len(part) == 1 for part in even) else bins
    bins += [[] for _ in range(parts - len(bins))]
    return [bins[start : start + workers] for start in range(0, parts, workers)]


def _fill(order: list[int], samples: Sequence[Lengths], budget: int, *, flat: bool) -> list[list[int]]:
    bins: list[list[int]] = []
    rows = tokens = longest = 0
    for i in order:
        rows, tokens, longest = rows + len(samples[i]), tokens + sum(samples[i]), max(longest, *samples[i])
        if not bins or (tokens if flat else rows * longest) > budget:
            bins.append([])
            rows, tokens, longest = len(samples[i]), sum(samples[i]), max(samples[i])
        bins[-1].append(i)
    return bins


def _run(samples: Sequence[Lengths], members: Sequence[int], *, flat: bool) -> int:
    """Returns the tokens that the members are run as."""
    if flat:
        return sum(sum(samples[i]) for i in members)
    return sum(len(samples[i]) for i in members) * max(max(samples[i]) for i in members)


def _even(order: list[int], samples: Sequence[Lengths], parts: int) -> list[list[int]]:
    """Cuts ``order`` into ``parts`` runs of about equal tokens, none empty."""
    weight = [sum(samples[i]) for i in order]
    bins: list[list[int]] = []
    start, done, total = 0, 0, sum(weight)
    for part in range(parts):
        stop = start + 1
        done += weight[start]
        goal = total * (part + 1) / parts
        while stop < len(order) - (parts - part - 1) and (part == parts - 1 or done + weight[stop] / 2 <= goal):
            done += weight[stop]
            stop += 1
        bins.append(order[start:stop])
        start = stop
    return bins


def group_rows(lengths: Lengths, shared: Sequence[bool], overhead: int) -> list[list[int]]:
    """Returns the groups of rows that are run together: of like length, and shared rows, which take a mask, by themselves.

    Args:
        lengths: tokens of each row; shared: whether it holds several responses.
        overhead: see ``like_lengths``.
    """
    groups: list[list[int]] = []
    for kind in (False, True):
        rows = [i for i, is_shared in enumerate(shared) if is_shared == kind]
        groups += [[rows[k] for k in group] for group in like_lengths([lengths[i] for i in rows], overhead)]
    return groups


def like_lengths(lengths: Lengths, overhead: int) -> list[list[int]]:
    """Returns groups of rows, each padded to its longest, at the least cost: padded tokens + ``overhead`` a group.

    Args:
        lengths: tokens of each row.
        overhead: tokens whose work costs as much as one more forward.

    >>> like_lengths([10, 3, 9, 3], overhead=4)
    [[0, 2], [1, 3]]
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    best: list[tuple[int, int]] = [(0, 0)]
    for stop in range(1, len(order) + 1):
        best.append(
            min((best[start][0] + lengths[order[start]] * (stop - start) + overhead, start) for start in range(stop))
        )
    groups: list[list[int]] = []
    stop = len(order)
    while stop:
        start = best[stop][1]
        groups.append(order[start:stop])
        stop = start
    return groups[::-1]
