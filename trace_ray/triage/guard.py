"""Judges a block in spans, leaving a mark on disk before each, so that what kills the judge is found and left out.

A mark without its result says that a judge died there. That span is then cut into smaller ones, down to a single
response; one that kills again on its own is given up. Results of finished spans are kept: a restart judges none twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pyarrow.fs as pafs

from trace_ray.errors import UserError
from trace_ray.judges.opinion import Judge, Opinion
from trace_ray.storage import Location
from trace_ray.triage.store import opinions_of, opinions_table, response_key

_CUTS = 4
_TRIES = 2
"""Deaths of a judge on one single response before it is given up: one may be an accident."""

Span = tuple[int, int]
Ask = Callable[[Sequence[str], Sequence[str]], Sequence[Opinion]]


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
        number, names = len(responses), {place.name for place in self.place.files()}
        found: list[Opinion | None] = [None] * number
        todo = [(start, min(start + self.size, number)) for start in range(0, number, self.size)][::-1]
        while todo:
            start, stop = span = todo.pop()
            name = _name(span, requests, responses)
            tries = sum(f"{name}.try{i}" in names for i in range(_TRIES))
            if f"{name}.parquet" in names:
                found[start:stop] = opinions_of((self.place / f"{name}.parquet").read_parquet())
            elif tries and stop - start > 1:
                todo += _cut(span)[::-1]
            elif tries < _TRIES:
                mark = self.place / f"{name}.try{tries}"
                mark.write_text("")
                try:
                    opinions = ask(requests[start:stop], responses[start:stop])
                except UserError:  # nobody died: a budget that is spent, an endpoint that is down
                    mark.fs.delete_file(mark.path)
                    raise
                (self.place / f"{name}.parquet").write_parquet(opinions_table(opinions))
                found[start:stop] = opinions
        return found


@dataclass(frozen=True)
class GuardedJudge:
    """A judge behind a guard: what kills it has no verdict."""

    judge: Judge
    guard: Guard

    def opinions(self, requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        killed = Opinion(None, "kills the judge")
        return [one or killed for one in self.guard.judge(requests, responses, self.judge.opinions)]


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


def _name(span: Span, requests: Sequence[str], responses: Sequence[str]) -> str:
    """Of its texts too: what is asked of a block shrinks when the verdict store has grown in the meantime."""
    keys = map(response_key, requests[slice(*span)], responses[slice(*span)])
    return f"span-{span[0]:06d}-{span[1]:06d}-{hashlib.sha256(b''.join(keys)).hexdigest()[:16]}"
