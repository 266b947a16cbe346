"""Triage and impact without a cluster: the same work and files, all of it in this process. Ray is tested elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import pytest
import ray

from trace_ray.impact import direction_stage
from trace_ray.impact import stage as impact_stage
from trace_ray.model.kept import model_facts
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


def done(worker: running.Worker, block: int = 0, **more: Any) -> dict[str, Any]:
    """Returns what a worker returns of one block."""
    item = {"block": block, **more}
    return worker.work(item, worker.read(item))


def _tasks_here(function: Callable[..., Any], first: Sequence[Any], *shared: Any, **_: Any) -> Iterator[Any]:
    return (function(item, *shared) for item in first)


def impact_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets ``run_impact`` do its work here, in the order in which it is given out."""
    monkeypatch.setattr(impact_stage, "ensure_ray", lambda _config: None)
    monkeypatch.setattr(impact_stage, "_pool", lambda _impact: _PoolHere())
    for module in (impact_stage, direction_stage):
        monkeypatch.setattr(module, "task", lambda function, _impact, **_: _TaskHere(function))
    monkeypatch.setattr(ray, "put", lambda value: value)
    monkeypatch.setattr(ray, "get", _value)
    monkeypatch.setattr(ray, "wait", lambda waiting: (waiting[:1], waiting[1:]))


@dataclass(frozen=True, eq=False)
class _Reference:
    value: Any


def _value(reference: Any) -> Any:
    if isinstance(reference, list):
        return [_value(one) for one in reference]
    return reference.value if isinstance(reference, _Reference) else reference


@dataclass(frozen=True)
class _TaskHere:
    function: Callable[..., Any]

    def remote(self, *arguments: Any, **named: Any) -> _Reference:
        return _Reference(self.function(*map(_value, arguments), **named))


class _PoolHere:
    """``cluster.actor_pool.ActorPool`` of two actors that are this process."""

    loads, run_as = 1, property(lambda _: model_facts())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def settle(self, most: int) -> int:
        return min(most, 2)

    def streams(self, function: Callable[..., Iterator[Any]], calls: Sequence[Sequence[Any]]) -> list[Iterator[Any]]:
        return [function(*arguments) for arguments in calls]

    def gathered(self, function: Callable[..., Any], calls: Sequence[Sequence[Any]]) -> Iterator[Any]:
        return (function(*arguments) for arguments in calls)

    def each(
        self, function: Callable[..., Any], calls: Iterable[tuple[Any, Sequence[Any]]]
    ) -> Iterator[tuple[Any, Any]]:
        return ((key, function(*arguments)) for key, arguments in calls)
