"""The project's figures in Ray's Prometheus endpoint, beside Ray's own (``ray_tasks``, ``ray_node_mem_used``, ...).

A process that belongs to no Ray cluster counts nothing. Names appear as ``ray_trace_ray_pairs_judged_total`` and so on.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "pairs_judged": ("Pairs that got a verdict.", ("category",)),
    "rejects": ("Rows refused, by stage and reason.", ("stage", "reason")),
    "judge_tokens": ("Prompt tokens given to judges; of an endpoint, answers too.", ()),
    "judge_prefix_queries": ("Tokens looked up in the judge's prefix cache.", ()),
    "judge_prefix_hits": ("Of these, found: hits / queries is the hit rate.", ()),
    "pairs_scored": ("Pairs scored by impact.", ("category",)),
    "training_tokens": ("Tokens trained on.", ()),
    "answers": ("Answers generated in evaluation.", ("model",)),
    "retries": ("Work done again: an S3 transfer, an endpoint's request, a training's start.", ("kind",)),
}
GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "training_tokens_per_second": ("Of the last step, over all workers.", ()),
    "training_step": ("Optimizer steps done.", ()),
}
_made: dict[str, Any] = {}


def count(name: str, amount: float, **tags: str) -> None:
    """Adds to a counter of ``COUNTERS``; nothing for an amount of 0, which would only make an empty series."""
    if amount and _in_ray():
        _metric(name, COUNTERS, "Counter").inc(amount, tags=tags or None)


def count_each(name: str, tag: str, values: Iterable[str | None], **tags: str) -> None:
    """Adds 1 for each value, under the tag's value; a None counts nothing."""
    for value, amount in Counter(number for number in values if number is not None).items():
        count(name, amount, **{tag: value}, **tags)


_OF_JUDGES = {
    "judged_tokens": "judge_tokens",
    "endpoint_tokens": "judge_tokens",
    "prefix_cache_queries": "judge_prefix_queries",
    "prefix_cache_hits": "judge_prefix_hits",
    "retries": "retries",
}


_OTHERS = re.compile("^(first|second|third|corrector)_")
"""How the names of what another judge than ``triage.judge`` used begin."""


def judge_tokens(used: Mapping[str, int]) -> int | None:
    """Returns the tokens that all judges used, whatever kind they are; None where none counts any, as rules do.

    >>> judge_tokens({"judged_tokens": 5, "second_endpoint_tokens": 2, "requests": 9}), judge_tokens({"requests": 9})
    (7, None)
    """
    found = [amount for key, amount in used.items() if _of_judges(key) == "judge_tokens"]
    return sum(found) if found else None


def _of_judges(key: str) -> str | None:
    return _OF_JUDGES.get(_OTHERS.sub("", key))


def count_judge(used: Mapping[str, int]) -> None:
    """Adds what judges used since the last time, from their ``counts()``: a first and a second one's like the judge's own."""
    for key, amount in used.items():
        name = _of_judges(key)
        if name == "retries":
            count(name, amount, kind="endpoint")
        elif name is not None:
            count(name, amount)


def gauge(name: str, value: float, **tags: str) -> None:
    """Sets a gauge of ``GAUGES``."""
    if _in_ray():
        _metric(name, GAUGES, "Gauge").set(value, tags=tags or None)


def _in_ray() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _metric(name: str, table: dict[str, tuple[str, tuple[str, ...]]], kind: str) -> Any:
    if name not in _made:
        from ray.util import metrics

        text, tags = table[name]
        _made[name] = getattr(metrics, kind)(f"trace_ray_{name}", description=text, tag_keys=tags)
    return _made[name]
