"""Judges one block of pairs: what is refused beforehand out, each distinct response judged once, stored verdicts reused.

No Ray here, and no threshold: what a verdict means for a pair is decided in ``triage.decide``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from trace_ray.judges.opinion import Judge, Opinion, preparing
from trace_ray.pairs import CLAUSE_P, RejectReason, fitted
from trace_ray.triage.guard import Ask, Prepare
from trace_ray.triage.questions import columns_of, questions_of
from trace_ray.triage.store import VerdictStore, opinion_columns, response_key

SIDES = ("chosen", "rejected")
OTHERS = ("second", "third")
"""The judges beside triage's own, as columns name them."""

JUDGED_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("pair_id", pa.string()),
        ("source", pa.string()),
        *((f"p_{side}", pa.float64()) for side in SIDES),
        *((f"error_{side}", pa.string()) for side in SIDES),
        *((f"clause_p_{side}", CLAUSE_P) for side in SIDES),
        *((f"rationale_{side}", pa.string()) for side in SIDES),
        *((f"yes_bias_{side}", pa.float64()) for side in SIDES),
        *((f"{judge}_{side}", pa.float64()) for judge in OTHERS for side in SIDES),
        *((f"{judge}_error_{side}", pa.string()) for judge in OTHERS for side in SIDES),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
"""What the judges said of a pair, or, where ``reason`` is set, why it is refused. ``second_*``: the second judge, whose
probability or error is there for each response wherever there is one. ``third_*``: the third one's, where it was asked."""

NOT_ASKED = (None, None)
"""P(violates) and the reason for none, of another judge on a response that it was not asked of."""
_SILENT = Opinion(None, "no verdict and no reason given")

KEPT = {"p_violates": "p", "clauses": "clause_p"}
"""What of an opinion has another name in JUDGED_SCHEMA."""

UNSETTLED = "unsettled"
"""Counts answers that another try may give: an endpoint failed."""

Spans = Callable[[Sequence[str], Sequence[str], Ask, Prepare | None], list[Opinion | None]]
"""Runs a judge over requests and responses; None for a response that kills it (``guard.Guard.judge``)."""


@dataclass(frozen=True)
class Bench:
    """One judge with what surrounds it.

    Args:
        judge: who judges.
        store: where its verdicts are kept across runs, if anywhere.
        spans: how it is run over a block.
        known: opinions of this run that need not be asked for again, by ``store.response_key``.
        clauses_from: ask for the clauses of responses with P(violates) from here on; None = of none.
        decided: what an earlier pass of this judging said, None where it died of the response: as if ``judge`` had.
    """

    judge: Judge
    store: VerdictStore | None
    spans: Spans
    clauses_from: float | None
    known: Mapping[bytes, Opinion] = field(default_factory=dict)
    decided: Mapping[bytes, Opinion | None] = field(default_factory=dict)

    def opinions(
        self, requests: Sequence[str], responses: Sequence[str], slots: Sequence[int], window: tuple[int, int]
    ) -> tuple[list[Opinion | None], Counter[str]]:
        """Returns an opinion on each response, None where it kills the judge, and what was asked or known.

        Args:
            slots: of the prompts, all within ``window`` (start, stop).
        """
        keyed = self.store or self.known or self.decided
        keys = list(map(response_key, requests, responses)) if keyed else []
        stored = self.store.read(*window) if self.store else {}
        known = {**stored, **self.known}
        new = [i for i, key in enumerate(keys) if key not in known] if keys else list(range(len(responses)))
        fresh = {i: self.decided[keys[i]] for i in new if self.decided and keys[i] in self.decided}
        asked = [i for i in new if i not in fresh]
        judged = self.spans(_pick(requests, asked), _pick(responses, asked), self._ask, preparing(self.judge))
        fresh |= dict(zip(asked, judged, strict=True))
        if self.store:
            found = {keys[i]: (slots[i], opinion) for i, opinion in fresh.items() if opinion is not None}
            self.store.write(*window, found)
        all_opinions = [fresh[i] if i in fresh else known[keys[i]] for i in range(len(responses))]
        first = sum(key in self.known for key in keys)
        counts = {"responses_judged": len(new), "responses_from_store": len(responses) - len(new) - first}
        return all_opinions, Counter(counts | ({"responses_judged_first": first} if first else {}))

    def _ask(self, requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        opinions = list(self.judge.opinions(requests, responses))
        if self.clauses_from is None:
            return opinions
        bad = [
            i
            for i, opinion in enumerate(opinions)
            if opinion.clauses is None and opinion.p_violates is not None and opinion.p_violates >= self.clauses_from
        ]
        named = self.judge.clauses(_pick(requests, bad), _pick(responses, bad)) if bad else []
        for i, clauses in zip(bad, named, strict=True):
            opinions[i] = opinions[i]._replace(clauses=clauses, final=opinions[i].final and clauses is not None)
        return opinions


@dataclass(frozen=True)
class Third:
    """A judge besides two others.

    Args:
        tie_at: it is asked where one of them has P(violates) from here on and the other below, or none; None = everywhere.
    """

    bench: Bench
    tie_at: float | None

    def asked(self, first: Sequence[Opinion | None], second: Sequence[Opinion | None]) -> list[int]:
        """Returns which of the responses it is asked of: none that killed another judge."""
        return [
            i
            for i, (one, other) in enumerate(zip(first, second, strict=True))
            if one is not None and other is not None and (self.tie_at is None or _tie(one, other, self.tie_at))
        ]


def _tie(first: Opinion, second: Opinion, at: float) -> bool:
    a, b = first.p_violates, second.p_violates
    return a is None or b is None or (a >= at) != (b >= at)


def judge_block(
    pairs: pa.Table, first: Bench, second: Bench | None, window: tuple[int, int], third: Third | None = None
) -> tuple[pa.Table, Counter[str]]:
    """Returns the block judged, in JUDGED_SCHEMA and row for row, and what was counted.

    Args:
        pairs: SLOT_SCHEMA, ordered by row; all slots lie within ``window``.
        second: an independent second judge, if any; third: one more beside it.
    """
    questions = questions_of(pairs)
    told, counts = _told(questions.asked, first, second, third, window)
    counts["responses_repeated"] = 2 * len(questions.requests) - len(questions.asked)
    unsettled = sum(not opinion.final for said in told.values() for opinion in said if opinion is not None)
    counts.update({UNSETTLED: unsettled} if unsettled else {})
    columns: dict[str, pa.Array] = {name: questions.new[name] for name in ("row", "pair_id", "source")}
    for name, side in zip(SIDES, questions.sides, strict=True):
        columns |= _side_columns(name, side, told)
    deadly = {i for i, each in enumerate(zip(*told.values(), strict=True)) if None in each}
    killed = [a in deadly or b in deadly for a, b in zip(*questions.sides, strict=True)]
    kills = "the judge's process died each time it read a response to: "
    columns["reason"] = pa.array([RejectReason.KILLS_JUDGE.value if dead else None for dead in killed], pa.string())
    details = [kills + request[:80] if dead else None for dead, request in zip(killed, questions.requests, strict=True)]
    columns["detail"] = pa.array(details, pa.string())
    return pa.concat_tables(
        [fitted(pa.table(columns), JUDGED_SCHEMA), fitted(questions.refused, JUDGED_SCHEMA)]
    ).sort_by("row"), counts


def _told(
    asked: Sequence[tuple[str, str, int]],
    first: Bench,
    second: Bench | None,
    third: Third | None,
    window: tuple[int, int],
) -> tuple[dict[str, list[Opinion | None]], Counter[str]]:
    """What each judge says of the responses, the first one under no name, and what was counted."""
    opinions, counts = first.opinions(*columns_of(asked), window)
    told = {"": opinions}
    if second is not None:
        told["second"], more = _further(second, asked, range(len(asked)), window)
        counts.update({f"second_{name}": value for name, value in more.items()})
    if second is not None and third is not None:
        told["third"], more = _further(third.bench, asked, third.asked(opinions, told["second"]), window)
        counts.update({f"third_{name}": value for name, value in more.items()})
    return told, counts


def _further(
    bench: Bench, asked: Sequence[tuple[str, str, int]], which: Sequence[int], window: tuple[int, int]
) -> tuple[list[Opinion | None], Counter[str]]:
    """What one more judge says of some of the responses, nothing of the rest; where it says nothing it is told so."""
    found: list[Opinion | None] = [Opinion(None)] * len(asked)
    said, counts = bench.opinions(*columns_of([asked[i] for i in which]), window)
    for i, opinion in zip(which, said, strict=True):
        told = opinion is None or opinion.p_violates is not None or opinion.error
        found[i] = opinion if told else _SILENT
    return found, counts


def _side_columns(name: str, side: Sequence[int], told: Mapping[str, Sequence[Opinion | None]]) -> dict[str, pa.Array]:
    kept: dict[str, pa.Array] = {}
    for judge, said in told.items():
        mine = opinion_columns([said[i] or Opinion(None) for i in side])
        if judge:
            kept |= {judge: mine["p_violates"], f"{judge}_error": mine["error"]}
        else:
            kept |= {KEPT.get(column, column): values for column, values in mine.items()}
    return {f"{column}_{name}": values for column, values in kept.items()}


def _pick(texts: Sequence[str], which: Sequence[int]) -> list[str]:
    return [texts[i] for i in which]


def merge_counts(tallies: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Returns the sum of several tallies, name by name."""
    total: Counter[str] = Counter()
    for tally in tallies:
        total.update(tally)
    return dict(total)
