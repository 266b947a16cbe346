"""From ratings to win rates with intervals and the raters' agreement."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from trace_ray.errors import UserError
from trace_ray.evaluate.intervals import TAIL, equal_interval
from trace_ray.evaluate.rating.agreement import krippendorff_alpha
from trace_ray.evaluate.rating.items import BAD, TIE

Key = Mapping[str, Mapping[str, str]]
"""{item_id: {letter: system}}"""


@dataclass(frozen=True)
class Rating:
    """One rater's choice for one item: the systems that share the first place, one or several."""

    item_id: str
    rater: str
    best: frozenset[str]


RELIABLE, TENTATIVE = 0.8, 0.667
"""Alpha from which conclusions hold, and from which they hold tentatively. Source: Krippendorff, Content Analysis (2004)."""


def alpha_word(alpha: float | None) -> str:
    """Returns what an alpha means, for those who read it for the first time.

    >>> [alpha_word(alpha) for alpha in (0.8, 0.79, 0.667, 0.66, None)]
    ['reliable', 'tentative', 'tentative', 'too low to rely on', 'not defined']
    """
    if alpha is None:
        return "not defined"
    return "reliable" if alpha >= RELIABLE else "tentative" if alpha >= TENTATIVE else "too low to rely on"


def read_ratings(text: str, key: Key, where: str, column: str = "choice") -> list[Rating]:
    """Returns the ratings of a CSV file with item_id, rater and choice; an empty choice is a missing rating.

    Args:
        column: another one with answers to another question; a file without it has none.
    Raises: UserError for an unknown item, a choice that is no letter of the item, or an item rated twice by one rater.
    """
    ratings: dict[tuple[str, str], Rating] = {}
    for number, row in enumerate(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline="")), 2):
        at = f"{where}: line {number}"
        if not {"item_id", "choice"} <= set(row):
            raise UserError(at, ", ".join(map(str, row)), "the file needs the columns item_id, rater and choice")
        item, rater, choice = row["item_id"].strip(), (row.get("rater") or "").strip(), (row.get(column) or "").strip()
        if not choice:
            continue
        if item not in key:
            raise UserError(at, item, "this item is not in the export's key; score the results with their own export")
        systems = {letter.lower(): name for letter, name in key[item].items()}
        letters = list(systems) if choice.lower() in (TIE, BAD) else choice.lower().split("+")
        if not set(letters) <= set(systems):
            raise UserError(
                at, choice, f"write one of {', '.join([*key[item], TIE, BAD])}, or A+B for two equally good"
            )
        if (item, rater) in ratings:
            raise UserError(at, f"{item} by {rater or 'nameless rater'}", "rated twice; keep one line a rater and item")
        ratings[item, rater] = Rating(item, rater, frozenset(systems[letter] for letter in letters))
    return list(ratings.values())


def win_rates(ratings: Sequence[Rating], systems: Sequence[str], resamples: int, seed: int) -> list[dict[str, Any]]:
    """Returns for each two systems wins, ties, losses and the first one's win rate in percent with a 95 % interval.

    A tie is half a win. Of three systems, a choice for the third alone says nothing about the other two: not counted.
    The interval resamples items, not ratings: raters of one item do not judge independently of it.
    """
    return [_versus(ratings, system, other, resamples, seed) for system, other in combinations(systems, 2)]


def _versus(ratings: Sequence[Rating], system: str, other: str, resamples: int, seed: int) -> dict[str, Any]:
    by_item: dict[str, list[float]] = {}
    for rating in ratings:
        if {system, other} & rating.best:
            worth = ((system in rating.best) - (other in rating.best) + 1) / 2
            by_item.setdefault(rating.item_id, []).append(worth)
    score_N = np.array([sum(values) for values in by_item.values()])
    count_N = np.array([len(values) for values in by_item.values()], np.float64)
    flat = [value for values in by_item.values() for value in values]
    facts: dict[str, Any] = {"system": system, "against": other, "items": len(by_item), "ratings": len(flat)}
    facts |= {"wins": flat.count(1.0), "ties": flat.count(0.5), "losses": flat.count(0.0)}
    if not flat:
        return facts | {"win_rate": None, "interval": None}
    rate_N = score_N / count_N
    if rate_N.min() == rate_N.max():  # resampling items would see no spread
        interval = [100 * bound for bound in equal_interval(float(rate_N[0]), len(by_item))]
        return facts | {"win_rate": 100 * float(rate_N[0]), "interval": interval}
    drawn = np.random.default_rng(seed).integers(0, len(by_item), (resamples, len(by_item)))
    rates = 100 * score_N[drawn].sum(1) / count_N[drawn].sum(1)
    low, high = np.quantile(rates, [TAIL, 1 - TAIL])
    return facts | {"win_rate": 100 * sum(flat) / len(flat), "interval": [float(low), float(high)]}


def rating_results(ratings: Sequence[Rating], key: Key, resamples: int, seed: int) -> dict[str, Any]:
    """Returns win rates, Krippendorff's alpha over all raters, and ratings by rater."""
    systems = sorted({name for letters in key.values() for name in letters.values()})
    units: dict[str, dict[str, str]] = {}
    raters: dict[str, int] = {}
    for rating in ratings:
        units.setdefault(rating.item_id, {})[rating.rater] = " + ".join(sorted(rating.best))
        raters[rating.rater] = raters.get(rating.rater, 0) + 1
    alpha = krippendorff_alpha(units.values())
    return {
        "win_rates": win_rates(ratings, systems, resamples, seed),
        "alpha": alpha,
        "alpha_is": alpha_word(alpha),
        "raters": raters,
        "items": len(key),
    }
