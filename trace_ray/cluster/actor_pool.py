"""Actors that keep what they have loaded: each loads a model once, and does all work that is given to it with that one."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from trace_ray.cluster.capacity import NodeGroup
from trace_ray.cluster.nodes import live_nodes

_LOOK_S = 10.0
"""Seconds after which the pool looks whether nodes have joined that more actors fit on."""


Facts = dict[str, Any]
"""What a process says of its work: ``loads``, how often it has loaded a model, and how it runs it."""
Told = tuple[str, Facts]
"""(an actor's name, its facts)."""


class Worker:
    """What runs in an actor: functions that share what the process keeps.

    Args:
        facts: tells of that.
    """

    def __init__(self, facts: Callable[[], Facts]) -> None:
        self.name, self.facts = uuid.uuid4().hex, facts

    def ready(self) -> None:
        """Answers when the actor has been placed."""

    def work(self, function: Callable[..., Any], *arguments: Any) -> tuple[Any, Told]:
        """Returns what the function returns, and what this process says of itself."""
        return function(*arguments), (self.name, self.facts())

    def stream(self, function: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[Any]:
        # Not `yield from`: Ray sends values into this generator, which the function's iterator need not take.
        for part in function(*arguments):  # noqa: UP028
            yield part


class ActorPool:
    """As many actors as the cluster holds, and some that wait for nodes which an autoscaler may add.

    An actor that dies is started again and does its call anew, ``max_retries`` times; where a node goes whose end was
    announced, that does not count, nor does an actor that cannot be reached: for seconds nobody knows that its node is
    gone, and the calls sent meanwhile come back.

    Args:
        num_cpus, num_gpus, label_selector: of an actor.
        most: actors at most, for work of which one that loads a model anew takes long to be worth it; None = as many as
            there is room and work for.
        facts: called in an actor after each piece of its work.
    """

    def __init__(
        self,
        num_cpus: float = 1.0,
        num_gpus: float = 0.0,
        label_selector: Mapping[str, str] | None = None,
        *,
        max_retries: int = 3,
        most: int | None = None,
        facts: Callable[[], Facts] = dict,
    ) -> None:
        self.num_cpus, self.num_gpus, self.label_selector = num_cpus, num_gpus, dict(label_selector or {})
        self.max_retries, self.most, self.facts = max_retries, most, facts
        self._actors: dict[Any, Any] = {}
        self._told: dict[str, Facts] = {}

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
        return sum(int(facts.get("loads", 0)) for facts in self._told.values())

    @property
    def run_as(self) -> Facts:
        """How actors run their model: all alike, but of tokens at once the fewest; empty before any has told."""
        every = [{name: value for name, value in facts.items() if name != "loads"} for facts in self._told.values()]
        least = {name: min(facts.get(name, n) for facts in every) for some in every for name, n in some.items()}
        return dict(least)

    def slots(self) -> int:
        """Returns how many actors the nodes that may have them hold at once, now; 1 where that is none yet."""
        return max(1, sum(node.admits(self.label_selector) * self._on(node) for node in live_nodes()))

    def _on(self, node: NodeGroup) -> int:
        return node.holds(self.num_cpus, self.num_gpus)

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

        actor = ray.remote(
            num_cpus=self.num_cpus,
            num_gpus=self.num_gpus or None,
            label_selector=self.label_selector or None,
            max_restarts=self.max_retries,
            max_task_retries=-1,  # deaths are what is counted
        )(Worker)
        while len(self._actors) < (count if self.most is None else min(count, self.most)):
            made = actor.remote(self.facts)
            self._actors[made.ready.remote()] = made
        return list(self._actors.values())

    def _result(self, told: tuple[Any, Told]) -> Any:
        result, (name, facts) = told
        self._told[name] = facts
        return result

    def _release(self, actor: Any) -> None:
        """Ends an actor: what it holds of a device is free for others."""
        import ray

        for ready in [ready for ready, other in self._actors.items() if other is actor]:
            ray.cancel(ready)  # else Ray tells the terminal that it will try again
            self._actors.pop(ready)
        ray.kill(actor)
