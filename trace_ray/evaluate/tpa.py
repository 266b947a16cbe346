"""Target policy agreement: the share of answers to held-out prompts that comply with the new policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def agreement(
    rows: Iterable[Mapping[str, Any]], by: str
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, int]]]:
    """Returns ({model: {group: percent compliant}}, {model: {group: answers}}); group ``all`` holds every answer.

    Args:
        rows: answers with model, compliant and the column ``by`` (category or source).
    An answer without a readable verdict counts as not compliant.
    """
    compliant: dict[str, dict[str, int]] = {}
    total: dict[str, dict[str, int]] = {}
    for row in rows:
        for group in ("all", str(row[by])):
            good, every = compliant.setdefault(row["model"], {}), total.setdefault(row["model"], {})
            good[group] = good.get(group, 0) + bool(row["compliant"])
            every[group] = every.get(group, 0) + 1
    percent = {
        model: {g: 100.0 * compliant[model][g] / n for g, n in groups.items()} for model, groups in total.items()
    }
    return percent, total


def evaluation_metrics(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns what metrics.json holds of the answers: TPA in percent overall, by category and by source, and counts."""
    by_category, n = agreement(rows, "category")
    by_source, n_source = agreement(rows, "source")
    models = sorted(n)
    unclear = {m: sum(r["judge_error"] is not None for r in rows if r["model"] == m) for m in models}
    words = {m: sum(len(r["response"].split()) for r in rows if r["model"] == m) / max(1, n[m]["all"]) for m in models}
    return {
        "tpa": by_category,
        "n": n[models[0]] if models else {},
        "tpa_by_source": by_source,
        "n_by_source": n_source[models[0]] if models else {},
        "unclear": unclear,
        "mean_words": words,
    }
