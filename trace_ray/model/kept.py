"""What a worker process has loaded and keeps for the next piece of work of the same run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

_KEPT: dict[str, tuple[str, Any]] = {}
_LOADS: Counter[str] = Counter()
MODEL, BUDGET = "model", "batch_tokens"
"""Kinds: the model, and the tokens of its forwards (``model.budget.TokenBudget``)."""


def kept(kind: str, key: str, make: Callable[[], Any]) -> Any:
    """Returns what ``make`` makes, once for a key; of each kind the last one is kept, another run's is let go before."""
    if _KEPT.get(kind, ("", None))[0] != key:
        _KEPT.pop(kind, None)  # before the next is made: two models need not fit
        _KEPT[kind] = (key, make())
    return _KEPT[kind][1]


def loaded() -> None:
    """Notes that this process has read a model's weights."""
    _LOADS[MODEL] += 1


def loads() -> int:
    """Returns how often this process has read a model's weights."""
    return _LOADS[MODEL]


def model_facts() -> dict[str, Any]:
    """Returns ``loads``, how this process runs the model that it keeps (``fused.how_run``), and its tokens at once."""
    from trace_ray.model.fused import how_run

    facts: dict[str, Any] = {"loads": loads()}
    facts |= how_run(_KEPT[MODEL][1]) if MODEL in _KEPT else {}
    return facts | ({BUDGET: _KEPT[BUDGET][1].tokens} if BUDGET in _KEPT else {})
