"""Triage without a cluster: the same workers and files, every block in this process. Ray itself is tested elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from trace_ray.triage import again, reading, running, stage


def triage_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets ``run_triage`` and ``decide_again`` do their work here."""
    for module in (stage, again):
        monkeypatch.setattr(module, "ensure_ray", lambda _config: None)
    for module in (reading, running):
        monkeypatch.setattr(module, "by_tasks", _tasks_here)
    blocks_in_process(monkeypatch)


def blocks_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets blocks be judged and decided here."""
    for name in ("in_pool", "in_tasks"):
        monkeypatch.setattr(running, name, _blocks_here)


def _blocks_here(worker: Any, arguments: Any, blocks: list[int], *_pool: Any) -> list[dict[str, Any]]:
    return running.run_blocks(worker, arguments(), blocks) if blocks else []


def _tasks_here(function: Callable[..., Any], first: Sequence[Any], *shared: Any, **_: Any) -> Iterator[Any]:
    return (function(item, *shared) for item in first)
