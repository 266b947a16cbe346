"""Judges a block in spans, leaving a mark on disk before each, so that what kills the judge is found and left out.

A mark without a result says that its process is gone. That is a death, and counted as one, where the process said so
itself (its engine failed) or where it went alone: this run's driver still goes on and the node is still in service. A mark
of an earlier driver, or of a node that is lost or draining, is an interruption: the texts had no part in it.

A span in which a judge died is cut into smaller ones, down to a single response; one on which it dies twice is given up.
Interruptions alone cut a span and give up a response only where they come so often (``_INTERRUPTED``) that the text may
well be what takes the node down. A judge that no text can kill has its spans left whole. Results of finished spans are
kept: a restart judges none twice, but for answers that were not final, as of an endpoint that failed. Corrections are
drafted in the same way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import pyarrow as pa

from trace_ray.errors import UserError
from trace_ray.judges.opinion import Corrector, Draft, Judge, Opinion
from trace_ray.model.engine import EngineFailedError
from trace_ray.storage.location import Location
from trace_ray.triage.store import opinions_of, opinions_table, response_key

_CUTS = 4
_DEATHS = 2
"""Deaths of a judge on one single response before it is given up: one may be an accident."""
_INTERRUPTED = (3, 8)
"""Marks of any kind after which a span is cut, and after which a single response is given up."""
_DIED = ".died"
_NOTHING = Draft(None)
_DRAFT = pa.schema(
    [("text", pa.string()), ("final", pa.bool_()), ("others", pa.list_(pa.string())), ("drawn", pa.int64())]
)

T = TypeVar("T", Opinion, Draft)
Span = tuple[int, int]
Ask = Callable[[Sequence[str], Sequence[str]], Sequence[Opinion]]
Prepare = Callable[[Sequence[str], Sequence[str]], None]
Write = Callable[[Sequence[str], Sequence[str]], Sequence[Draft]]


@dataclass(frozen=True)
class Witness:
    """Where this process runs, and what it can tell of those before it.

    Args:
        driver: names the process that drives the run; every command has another.
        node: names this node; in_service: whether a node still is there for work.
        on_death: called once each death is on record; what it raises stops the judge.
    """

    driver: str = ""
    node: Callable[[], str] = lambda: ""
    in_service: Callable[[str], bool] = lambda _node: True
    on_death: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Guard:
    """The marks of one block.

    Args:
        place: a folder of this block's own.
        size: responses in a span.
        buried: a folder of the whole triage, where each death has a file too: counted by one listing of few names.
        cuts: False = spans are neither cut nor given up, whatever interrupts them: no text can kill this process, and what
            was asked is found by asking the very same again. Deaths are on record all the same, and bounded.
    """

    place: Location
    size: int
    witness: Witness = field(default_factory=Witness)
    buried: Location | None = None
    cuts: bool = True

    def judge(
        self, requests: Sequence[str], responses: Sequence[str], ask: Ask, prepare: Prepare | None = None
    ) -> list[Opinion | None]:
        """Returns an opinion on each response, None for one that kills its judge.

        Args:
            ask: gives the opinions on some of them; its process may die while it does.
            prepare: readies what is asked next, in a thread beside ``ask``.
        """
        with ThreadPoolExecutor(1, "prepare") as aside:
            ahead = _Ahead(aside, prepare)
            return self._in_spans(requests, responses, ask, opinions_table, opinions_of, ahead)

    def drafts(self, requests: Sequence[str], responses: Sequence[str], draft: Write) -> list[Draft | None]:
        """As ``judge``, of corrected responses."""
        return self._in_spans(requests, responses, draft, _drafts_table, _drafts_of)

    def _in_spans(
        self,
        requests: Sequence[str],
        responses: Sequence[str],
        ask: Callable[[Sequence[str], Sequence[str]], Sequence[T]],
        table: Callable[[Sequence[T]], pa.Table],
        rows: Callable[[pa.Table], list[T]],
        ahead: _Ahead | None = None,
    ) -> list[T | None]:
        number, names = len(responses), {place.name for place in self.place.files()} if responses else set()
        found: list[T | None] = [None] * number
        todo = [(start, min(start + self.size, number)) for start in range(0, number, self.size)][::-1]
        while todo:
            start, stop = span = todo.pop()
            name, asked = _name(span, requests, responses), (requests[start:stop], responses[start:stop])
            if f"{name}.parquet" in names:
                found[start:stop] = rows((self.place / f"{name}.parquet").read_parquet())
                open_ones = [i for i in range(start, stop) if not (found[i] or _NOTHING).final]
                again = Guard(self.place / f"{name}.again", self.size, self.witness, self.buried, self.cuts)
                texts = [requests[i] for i in open_ones], [responses[i] for i in open_ones]
                for i, outcome in zip(open_ones, again._in_spans(*texts, ask, table, rows), strict=True):
                    found[i] = outcome
                continue
            marks, died = self._settle(name, names)
            if self.cuts and stop - start > 1 and (died or marks >= _INTERRUPTED[0]):
                todo += _cut(span)[::-1]
            elif not self.cuts or (died < _DEATHS and marks < _INTERRUPTED[1]):
                if ahead is not None:
                    ahead.settle()
                with self._marked(f"{name}.try{marks}"):
                    if ahead is not None and todo:
                        ahead.begin(requests[slice(*todo[-1])], responses[slice(*todo[-1])])
                    answers = ask(*asked)
                (self.place / f"{name}.parquet").write_parquet(table(answers))
                found[start:stop] = answers
        return found

    @contextmanager
    def _marked(self, name: str) -> Iterator[None]:
        """Leaves a mark of this process, which its result makes good; a death of which it knows is put on record."""
        mark = self.place / f"{name}.{self.witness.driver}.{self.witness.node()}"
        mark.write_text("")
        try:
            yield
        except UserError:  # nobody died: a budget that is spent, an endpoint that is down
            mark.fs.delete_file(mark.path)
            raise
        except EngineFailedError:
            self._record(name)
            raise

    def _settle(self, name: str, names: set[str]) -> tuple[int, int]:
        """Records the deaths of which a span's marks are the only witness; returns how many marks and deaths it has."""
        marks = [file for file in names if file.startswith(f"{name}.try") and not file.endswith(_DIED)]
        died = {file.removesuffix(_DIED) for file in names if file.startswith(f"{name}.try") and file.endswith(_DIED)}
        for mark in marks:
            attempt, driver, node = mark.rsplit(".", 2)
            alone = driver == self.witness.driver and self.witness.in_service(node)
            if attempt not in died and alone:
                died.add(attempt)
                self._record(attempt)
        return len(marks), len(died)

    def _record(self, attempt: str) -> None:
        if self.buried is not None:
            whose = hashlib.sha256(f"{self.place.path}/{attempt}".encode()).hexdigest()[:32]
            (self.buried / f"{whose}{_DIED}").write_text("")
        (self.place / f"{attempt}{_DIED}").write_text("")
        self.witness.on_death()


class _Ahead:
    """Readies one span at a time, in a thread of its own."""

    def __init__(self, aside: Executor, prepare: Prepare | None) -> None:
        self.aside, self.prepare = aside, prepare
        self.begun: Future[None] | None = None

    def begin(self, requests: Sequence[str], responses: Sequence[str]) -> None:
        if self.prepare is not None:
            self.begun = self.aside.submit(self.prepare, requests, responses)

    def settle(self) -> None:
        """Waits for what was begun; what failed there fails again, where it is asked for."""
        if self.begun is not None:
            wait([self.begun])


@dataclass(frozen=True)
class GuardedJudge:
    """A judge behind a guard: what kills it has no verdict."""

    judge: Judge
    guard: Guard

    def opinions(self, requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        killed = Opinion(None, "kills the judge")
        return [opinion or killed for opinion in self.guard.judge(requests, responses, self.judge.opinions)]


@dataclass(frozen=True)
class GuardedCorrector:
    """A corrector behind a guard: what kills it has no draft."""

    corrector: Corrector
    guard: Guard

    def drafts(self, requests: Sequence[str], responses: Sequence[str]) -> list[Draft]:
        return [draft or Draft(None) for draft in self.guard.drafts(requests, responses, self.corrector.drafts)]

    def counts(self) -> dict[str, int]:
        return self.corrector.counts()


def unguarded(
    requests: Sequence[str], responses: Sequence[str], ask: Ask, _prepare: Prepare | None = None
) -> list[Opinion | None]:
    """For judges that nothing kills: the whole block at once, no mark."""
    return [*ask(requests, responses)]


def deaths(place: Location) -> int:
    """Returns how many deaths of a judge are on record in the folder ``place``."""
    return len(place.files(_DIED))


def _cut(span: Span) -> list[Span]:
    start, stop = span
    bounds = sorted({start + (stop - start) * i // _CUTS for i in range(_CUTS + 1)})
    return list(pairwise(bounds))


def _drafts_table(drafts: Sequence[Draft]) -> pa.Table:
    columns: list[list[Any]] = [list(column) for column in zip(*drafts, strict=True)] or [[] for _ in _DRAFT]
    return pa.table([pa.array(c, kind) for c, kind in zip(columns, _DRAFT.types, strict=True)], schema=_DRAFT)


def _drafts_of(table: pa.Table) -> list[Draft]:
    return [Draft(row["text"], row["final"], tuple(row["others"]), row["drawn"]) for row in table.to_pylist()]


def _name(span: Span, requests: Sequence[str], responses: Sequence[str]) -> str:
    """Of its texts too: what is asked of a block shrinks when the verdict store has grown in the meantime."""
    keys = map(response_key, requests[slice(*span)], responses[slice(*span)])
    return f"span-{span[0]:06d}-{span[1]:06d}-{hashlib.sha256(b''.join(keys)).hexdigest()[:16]}"
