"""Target policy agreement: the share of answers to held-out prompts that comply with the new policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from trace_ray.evaluate.intervals import bootstrap_interval, change_interval
from trace_ray.pairs import MODELS

Answer = Mapping[str, Any]
Grouped = dict[str, dict[str, list[float]]]
"""{model: {group: 1.0 or 0.0 for each answer, ordered by pair_id}}; group ``all`` holds every answer."""


def compliance(rows: Iterable[Answer], by: str) -> Grouped:
    """Returns which answers comply, by model and group. An answer without a readable verdict counts as not compliant.

    Args:
        rows: answers with pair_id, model, compliant and the column ``by`` (category or source).
    """
    grouped: Grouped = {}
    for row in sorted(rows, key=lambda row: (row["pair_id"], row["prompt"])):
        for group in dict.fromkeys(("all", str(row[by]))):  # a source may be called all
            grouped.setdefault(row["model"], {}).setdefault(group, []).append(float(bool(row["compliant"])))
    return grouped


def percent(values: Sequence[float]) -> float:
    """Returns the share of ones in percent."""
    return 100.0 * sum(values) / len(values)


def evaluation_metrics(rows: list[dict[str, Any]], resamples: int, seed: int) -> dict[str, Any]:
    """Returns what metrics.json holds of the answers: TPA in percent overall, by category and by source, and counts.

    ``tpa_interval`` and ``tpa_change`` hold 95 % intervals, of each model's TPA and of the paired change between them;
    those by source are named likewise.
    """
    by_category, by_source = compliance(rows, "category"), compliance(rows, "source")
    models = sorted(by_category)
    metrics: dict[str, Any] = {
        "tpa": _map(by_category, percent),
        "tpa_interval": _map(by_category, lambda v: _percents(bootstrap_interval(v, resamples, seed))),
        "tpa_change": _changes(by_category, resamples, seed),
        "n": {group: len(v) for group, v in by_category[models[0]].items()} if models else {},
        "tpa_by_source": _map(by_source, percent),
        "tpa_by_source_interval": _map(by_source, lambda v: _percents(bootstrap_interval(v, resamples, seed))),
        "tpa_change_by_source": _changes(by_source, resamples, seed),
        "n_by_source": {group: len(v) for group, v in by_source[models[0]].items()} if models else {},
    }
    for model in models:
        mine = [row for row in rows if row["model"] == model]
        metrics.setdefault("unclear", {})[model] = sum(row["judge_error"] is not None for row in mine)
        metrics.setdefault("mean_words", {})[model] = sum(len(row["response"].split()) for row in mine) / len(mine)
        metrics.setdefault("diversity", {})[model] = diversity([row["response"] for row in mine])
    return metrics


def diversity(answers: Iterable[str]) -> float:
    """Returns how many of an answer's pairs of neighbouring words are not said before in it, as a share in [0, 1].

    The mean over answers of two words or more; 0 where there is none. A model that says one thing again and again falls
    towards 0; good prose is near 1.

    >>> diversity(["the cat sat", "ahem ahem ahem ahem ahem", "no"])
    0.625
    """
    shares = []
    for answer in answers:
        words = answer.lower().split()
        pairs = list(pairwise(words))
        if pairs:
            shares.append(len(set(pairs)) / len(pairs))
    return sum(shares) / len(shares) if shares else 0.0


def _map(grouped: Grouped, function: Any) -> dict[str, dict[str, Any]]:
    return {model: {g: function(values) for g, values in groups.items()} for model, groups in grouped.items()}


def _percents(interval: tuple[float, float]) -> list[float]:
    return [100.0 * bound for bound in interval]


def _changes(grouped: Grouped, resamples: int, seed: int) -> dict[str, dict[str, Any]]:
    if not set(MODELS) <= set(grouped):
        return {}
    base, realigned = grouped["base"], grouped["realigned"]
    return {
        group: {
            "change": percent(realigned[group]) - percent(base[group]),
            "interval": _percents(change_interval(base[group], realigned[group], resamples, seed)),
        }
        for group in base
    }
