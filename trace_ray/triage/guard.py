"""Judges a block in spans, leaving a mark on disk before each, so that what kills the judge is found and left out.

A mark without its result says that a judge died there. That span is then cut into smaller ones, down to a single
response; one that kills again on its own is given up. Results of finished spans are kept: a restart judges none twice.
Corrections are drafted in the same way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from trace_ray.errors import UserError
from trace_ray.judges.opinion import Corrector, Judge, Opinion
from trace_ray.storage import Location
from trace_ray.triage.store import opinions_of, opinions_table, response_key

_CUTS = 4
_TRIES = 2
"""Deaths of a judge on one single response before it is given up: one may be an accident."""

T = TypeVar("T")
Span = tuple[int, int]
Ask = Callable[[Sequence[str], Sequence[str]], Sequence[Opinion]]
Draft = Callable[[Sequence[str], Sequence[str]], Sequence[str | None]]


@dataclass(frozen=True)
class Guard:
    """The marks of one block.

    Args:
        place: a folder of this block's own.
        size: responses in a span.
    """

    place: Location
    size: int

    def judge(self, requests: Sequence[str], responses: Sequence[str], ask: Ask) -> list[Opinion | None]:
        """Returns an opinion on each response, None for one that kills its judge.

        Args:
            ask: gives the opinions on some of them; its process may die while it does.
        """
        return self._in_spans(requests, responses, ask, opinions_table, opinions_of)

    def drafts(self, requests: Sequence[str], responses: Sequence[str], draft: Draft) -> list[str | None]:
        """As ``judge``, of corrected responses; None where there is none, too."""
        return self._in_spans(requests, responses, draft, _drafts_table, _drafts_of)

    def _in_spans(
        self,
        requests: Sequence[str],
        responses: Sequence[str],
        ask: Callable[[Sequence[str], Sequence[str]], Sequence[T]],
        table: Callable[[Sequence[T]], pa.Table],
        rows: Callable[[pa.Table], list[T]],
    ) -> list[T | None]:
        number, names = len(responses), {place.name for place in self.place.files()}
        found: list[T | None] = [None] * number
        todo = [(start, min(start + self.size, number)) for start in range(0, number, self.size)][::-1]
        while todo:
            start, stop = span = todo.pop()
            name = _name(span, requests, responses)
            tries = sum(f"{name}.try{i}" in names for i in range(_TRIES))
            if f"{name}.parquet" in names:
                found[start:stop] = rows((self.place / f"{name}.parquet").read_parquet())
            elif tries and stop - start > 1:
                todo += _cut(span)[::-1]
            elif tries < _TRIES:
                mark = self.place / f"{name}.try{tries}"
                mark.write_text("")
                try:
                    answers = ask(requests[start:stop], responses[start:stop])
                except UserError:  # nobody died: a budget that is spent, an endpoint that is down
                    mark.fs.delete_file(mark.path)
                    raise
                (self.place / f"{name}.parquet").write_parquet(table(answers))
                found[start:stop] = answers
        return found


@dataclass(frozen=True)
class GuardedJudge:
    """A judge behind a guard: what kills it has no verdict."""

    judge: Judge
    guard: Guard

    def opinions(self, requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        killed = Opinion(None, "kills the judge")
        return [one or killed for one in self.guard.judge(requests, responses, self.judge.opinions)]


@dataclass(frozen=True)
class GuardedCorrector:
    """A corrector behind a guard: what kills it has no draft."""

    corrector: Corrector
    guard: Guard

    def drafts(self, requests: Sequence[str], responses: Sequence[str]) -> list[str | None]:
        return self.guard.drafts(requests, responses, self.corrector.drafts)

    def counts(self) -> dict[str, int]:
        return self.corrector.counts()


def unguarded(requests: Sequence[str], responses: Sequence[str], ask: Ask) -> list[Opinion | None]:
    """For judges that nothing kills: the whole block at once, no mark."""
    return [*ask(requests, responses)]


def deaths(place: Location) -> int:
    """Returns how often a judge began a span below ``place`` and did not finish it, over all blocks."""
    infos = place.fs.get_file_info(pafs.FileSelector(place.path, recursive=True, allow_not_found=True))
    names = [info.path for info in infos if info.type == pafs.FileType.File and not info.path.endswith(".tmp")]
    finished = {name.removesuffix(".parquet") for name in names if name.endswith(".parquet")}
    begun = [name.rsplit(".try", 1)[0] for name in names if ".try" in name]
    return len(begun) - len(finished)


def _cut(span: Span) -> list[Span]:
    start, stop = span
    bounds = sorted({start + (stop - start) * i // _CUTS for i in range(_CUTS + 1)})
    return list(pairwise(bounds))


def _drafts_table(drafts: Sequence[str | None]) -> pa.Table:
    return pa.table({"draft": pa.array(drafts, pa.string())})


def _drafts_of(table: pa.Table) -> list[str | None]:
    return list(table["draft"].to_pylist())


def _name(span: Span, requests: Sequence[str], responses: Sequence[str]) -> str:
    """Of its texts too: what is asked of a block shrinks when the verdict store has grown in the meantime."""
    keys = map(response_key, requests[slice(*span)], responses[slice(*span)])
    return f"span-{span[0]:06d}-{span[1]:06d}-{hashlib.sha256(b''.join(keys)).hexdigest()[:16]}"
