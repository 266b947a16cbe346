"""The actors of stage 2: each loads the model once, and works on gold shards, curvature products and scores alike."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from trace_ray.cluster.capacity import NodeGroup
from trace_ray.cluster.nodes import live_nodes
from trace_ray.config import ImpactConfig
from trace_ray.impact.tasks import models_loaded, models_run

_LOOK_S = 10.0
"""Seconds after which the pool looks whether nodes have joined that more actors fit on."""


Told = tuple[str, int, dict[str, str]]
"""(an actor's name, how often it has loaded a model so far, how it runs it)."""


class ImpactWorker:
    """What runs in an actor: functions of ``impact.tasks``, which share the model that the process holds."""

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex

    def ready(self) -> None:
        """Answers when the actor has been placed."""

    def work(self, function: Callable[..., Any], *arguments: Any) -> tuple[Any, Told]:
        """Returns what the function returns, and what this process says of its model."""
        return function(*arguments), self.told()

    def stream(self, function: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[Any]:
        # Not `yield from`: Ray sends values into this generator, which the function's iterator need not take.
        for part in function(*arguments):  # noqa: UP028
            yield part

    def told(self) -> Told:
        return self.name, models_loaded(), models_run()


class ActorPool:
    """As many actors as the cluster holds, and some that wait for nodes which an autoscaler may add.

    An actor that dies is started again and does its call anew, ``impact.max_retries`` times; where a node goes whose end
    was announced, that does not count, nor does an actor that cannot be reached: for seconds nobody knows that its node is
    gone, and the calls sent meanwhile come back.
    """

    def __init__(self, impact: ImpactConfig) -> None:
        self.impact = impact
        self._actors: dict[Any, Any] = {}
        self._told: dict[str, int] = {}
        self.run_as: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for actor in list(self._actors.values()):
            self._release(actor)

    @property
    def loads(self) -> int:
        """Models loaded, as far as the calls that ended have told."""
        return sum(self._told.values())

    def slots(self) -> int:
        """Returns how many actors the nodes that may have them hold at once, now; 1 where that is none yet."""
        return max(1, sum(node.admits(self.impact.label_selector) * self._on(node) for node in live_nodes()))

    def _on(self, node: NodeGroup) -> int:
        return node.holds(self.impact.num_cpus, self.impact.gpus)

    def settle(self, most: int) -> int:
        """Returns how many actors are up, ``most`` at most: those that find no room while none comes up are let go.

        Work that is dealt to actors beforehand is dealt to these: a call of one that waits for room might never be made.
        """
        import ray

        self._grown(min(most, self.slots()))
        waiting, up = dict(self._actors), 0
        while waiting:
            ended, _ = ray.wait(list(waiting), timeout=_LOOK_S if up else None)
            if not ended:
                break
            for ready in ended:
                ray.get(ready)
                waiting.pop(ready)
                up += 1
        for actor in waiting.values():
            self._release(actor)
        return min(most, up)

    def streams(self, function: Callable[..., Iterator[Any]], calls: Sequence[Sequence[Any]]) -> list[Any]:
        """Returns a generator of references a call, each on an actor of its own: no more calls than ``settle`` has told."""
        actors = self._grown(len(calls))
        return [
            actor.stream.options(num_returns="streaming").remote(function, *arguments)
            for actor, arguments in zip(actors, calls, strict=False)
        ]

    def gathered(self, function: Callable[..., Any], calls: Sequence[Sequence[Any]]) -> Iterator[Any]:
        """Yields what each call returns, in order; each is on an actor of its own: no more than ``settle`` has told."""
        import ray

        actors = self._grown(len(calls))
        waiting = [actor.work.remote(function, *arguments) for actor, arguments in zip(actors, calls, strict=False)]
        for call in waiting:
            yield self._result(ray.get(call))

    def each(
        self, function: Callable[..., Any], calls: Iterable[tuple[Any, Sequence[Any]]]
    ) -> Iterator[tuple[Any, Any]]:
        """Yields (key, what its call returns) as calls end; an actor gets one when it is free, and ends when none is left.

        Args:
            calls: (key, arguments) of each.
        """
        import ray

        todo, busy, free = deque(calls), dict[Any, Any](), list[Any]()
        starting, known, looked = dict[Any, Any](), set[Any](), float("-inf")
        while todo or busy:
            if todo and time.monotonic() - looked >= _LOOK_S:
                self._grown(min(len(todo) + len(busy), 4 * self.slots()))
                looked = time.monotonic()
            starting |= {ready: actor for ready, actor in self._actors.items() if ready not in known}
            known |= self._actors.keys()
            while todo and free:
                actor, (key, arguments) = free.pop(), todo.popleft()
                busy[actor.work.remote(function, *arguments)] = actor, key
            ended, _ = ray.wait([*busy, *starting], timeout=_LOOK_S)
            for reference in ended:
                if reference in starting:
                    ray.get(reference)
                    actor = starting.pop(reference)
                else:
                    actor, key = busy.pop(reference)
                    yield key, self._result(ray.get(reference))
                free.append(actor)
            if not todo:
                for actor in (*free, *starting.values()):
                    self._release(actor)
                free, starting = [], {}

    def _grown(self, count: int) -> list[Any]:
        import ray

        impact = self.impact
        actor = ray.remote(
            num_cpus=impact.num_cpus,
            num_gpus=impact.gpus or None,
            label_selector=impact.label_selector or None,
            max_restarts=impact.max_retries,
            max_task_retries=-1,  # deaths are what is counted
        )(ImpactWorker)
        while len(self._actors) < count:
            made = actor.remote()
            self._actors[made.ready.remote()] = made
        return list(self._actors.values())

    def _result(self, told: tuple[Any, Told]) -> Any:
        result, (name, loads, how) = told
        self._told[name] = loads
        self.run_as = how or self.run_as
        return result

    def _release(self, actor: Any) -> None:
        """Ends an actor: what it holds of a device is free for others."""
        import ray

        for ready in [ready for ready, other in self._actors.items() if other is actor]:
            ray.cancel(ready)  # else Ray tells the terminal that it will try again
            self._actors.pop(ready)
        ray.kill(actor)
