"""Which pairs are worth a label: of every kind alike, and of each kind both those that would change most and others at random.

Those near the threshold teach a calibration and a band most; a share at random keeps the audit's figures honest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from trace_ray.config import CorpusConfig
from trace_ray.corpus.read import Source, read_sources
from trace_ray.pairs import hash_fraction, prompt_text
from trace_ray.runs.artifacts import Run

_CHUNK_BYTES = 8 << 20
_READ_FOR_EACH = 40
"""Pairs of a corpus that are looked at for each that is drawn."""
_COLUMNS = ["pair_id", "prompt", "chosen", "rejected", "source", "category"]
_JUDGED = ["p_violates_chosen", "p_violates_rejected", "clauses_chosen"]


class Candidate(NamedTuple):
    """A pair that may be labelled.

    Args:
        kind: category, source and clause, as far as they are known: each kind is drawn from alike.
        worth: uncertainty of the verdict x expected impact, 0 where nothing is judged yet.
        chance: in [0, 1), by the pair's hash: the order of those drawn at random.
        said: P(violates) of both responses, None where nothing is judged yet.
    """

    pair_id: str
    prompt: str
    chosen: str
    rejected: str
    kind: tuple[str, ...]
    worth: float
    chance: float
    said: tuple[float | None, float | None] | None


def of_run(run: Run, threshold: float, number: int, seed: int) -> list[Candidate]:
    """Returns the pairs of a judged run that people should label, the most informative first."""
    impact = _impact(run)
    drawn: list[Candidate] = []
    for table in run.triaged.tables([*_COLUMNS, *_JUDGED]):
        rows = table.to_pylist()
        chances = hash_fraction([row["pair_id"] for row in rows], seed, "label")
        drawn = draw(
            [*drawn, *(_judged(row, chance, threshold, impact) for row, chance in zip(rows, chances, strict=True))],
            number,
        )
    return drawn


def of_corpus(sources: list[Source], config: CorpusConfig, number: int, seed: int) -> list[Candidate]:
    """Returns pairs of a corpus that nobody has judged: of each source alike, in an order drawn by their hashes."""
    found: dict[str, Candidate] = {}
    for source in sources:
        for chunk in read_sources([source], config, number * _READ_FOR_EACH, _CHUNK_BYTES):
            rows = chunk.pairs.select(_COLUMNS[:-1]).to_pylist()
            chances = hash_fraction([row["pair_id"] for row in rows], seed, "label")
            for row, chance in zip(rows, chances, strict=True):
                found[row["pair_id"]] = _candidate(row, (row["source"],), 0.0, chance, None)
    return draw(found.values(), number)


def draw(candidates: Iterable[Candidate], number: int) -> list[Candidate]:
    """Returns up to ``number``: one of each kind in turn, within a kind the worthiest and one at random by turns.

    The same pairs are drawn in whatever pieces the candidates come.
    """
    kinds: dict[tuple[str, ...], list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        kinds[candidate.kind].append(candidate)
    turns = [
        (turn, kind, candidate)
        for kind, members in sorted(kinds.items())
        for turn, candidate in enumerate(_by_turns(members, number))
    ]
    chosen = [candidate for _, _, candidate in sorted(turns, key=lambda turn: turn[:2])[:number]]
    return sorted(chosen, key=lambda candidate: (-candidate.worth, candidate.chance))


def _by_turns(members: list[Candidate], number: int) -> list[Candidate]:
    worthy = sorted(members, key=lambda candidate: (-candidate.worth, candidate.chance))[:number]
    random = sorted(members, key=lambda candidate: candidate.chance)[:number]
    mixed = dict.fromkeys(candidate for both in zip(worthy, random, strict=True) for candidate in both)
    return list(mixed)[:number]


def _candidate(row: Mapping[str, Any], kind: tuple[str, ...], worth: float, chance: float, said: Any) -> Candidate:
    texts = (prompt_text(row["prompt"]), row["chosen"], row["rejected"])
    return Candidate(row["pair_id"], *texts, kind, worth, chance, said)


def _judged(row: Mapping[str, Any], chance: float, threshold: float, impact: Mapping[str, float]) -> Candidate:
    said = (row["p_violates_chosen"], row["p_violates_rejected"])
    doubt = max(_doubt(p, threshold) for p in said)
    clause = (row["clauses_chosen"] or ["none"])[0]
    kind = (row["category"], row["source"] or "", clause)
    return _candidate(row, kind, doubt * impact.get(row["pair_id"], 1.0 if not impact else 0.1), chance, said)


def _doubt(p: float | None, threshold: float) -> float:
    """1 at the threshold or without a verdict, 0 at the far end of its side."""
    if p is None:
        return 1.0
    room = threshold if p < threshold else 1 - threshold
    return 1 - abs(p - threshold) / room if room else 0.0


def _impact(run: Run) -> dict[str, float]:
    """Each conflict's |impact| over the largest; empty where stage 2 has not finished."""
    if not run.scored.done():
        return {}
    found: dict[str, float] = {}
    for table in run.scored.tables(["pair_id", "impact"]):
        rows = zip(table["pair_id"].to_pylist(), table["impact"].to_pylist(), strict=True)
        found.update((pair, abs(impact)) for pair, impact in rows if impact is not None)
    most = max(found.values(), default=0.0) or 1.0
    return {pair: 0.1 + 0.9 * value / most for pair, value in found.items()}


def named_in(run: Run, ids: Iterable[str], threshold: float) -> list[Candidate]:
    """Returns those pairs of a judged run that are named by their ids."""
    wanted = set(ids)
    rows = (row for table in run.triaged.tables([*_COLUMNS, *_JUDGED]) for row in table.to_pylist())
    return [_judged(row, 0.0, threshold, {}) for row in rows if row["pair_id"] in wanted]
