"""From a model's answers to the pairs of a round: which prompts, which of the drawn answers, what is left out. No Ray here.

A prompt's row, once it is answered::

    {"pair_id": "3f0c...", "source": "pku", "prompt": [{"role": "user", "content": "How do I ...?"}],
     "greedy": "Like this: ...", "samples": ["I would rather ...", "Like this: ..."]}
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.pairs import MESSAGES, Split, hash_fraction

Row = dict[str, Any]
PROMPTS = 64
"""Answered together, and lost together by a crash."""
COLUMNS = ["pair_id", "prompt", "source", "split"]
"""What is read of a triaged part to know its training prompts."""
ANSWER_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("source", pa.string()),
        ("prompt", MESSAGES),
        ("greedy", pa.string()),
        ("samples", pa.list_(pa.string())),
    ]
)
"""What the model says to one training prompt, and the whole answers that were drawn; ``pair_id``: of the prompt's first pair.
``greedy`` is null where the model's chat template does not take the prompt."""
VERDICT_SCHEMA = pa.schema([("pair_id", pa.string()), ("p_violates", pa.list_(pa.float64()))])
"""P(violates) of each of ``candidates``, null where the judge gave none; nulls throughout where there is nothing to choose."""
OWN_PAIR_SCHEMA = pa.schema(
    [("prompt", MESSAGES), ("chosen", MESSAGES), ("rejected", MESSAGES), ("source", pa.string())]
)
"""A pair as the corpus' reader takes it: answers as turns, so that no text in them is taken for a dialogue."""


class Outcome(StrEnum):
    """What becomes of an answered prompt."""

    PAIR = "pairs"
    EMPTY = "empty_answers"
    IDENTICAL = "identical_answers"
    UNENDED = "no_whole_sample"
    REFUSED = "refused_prompts"


@dataclass(frozen=True)
class Piece:
    """Some training prompts of one triaged part: the ``index``-th PROMPTS of them."""

    part: str
    index: int

    @property
    def name(self) -> str:
        return f"{self.part.removesuffix('.parquet')}-{self.index:05d}.parquet"

    def of(self, prompts: Sequence[Row]) -> Sequence[Row]:
        """Returns this piece's of the part's training prompts."""
        return prompts[self.index * PROMPTS : (self.index + 1) * PROMPTS]


def pieces(counts: Mapping[str, int]) -> list[Piece]:
    """Returns the pieces of parts with so many training prompts each.

    >>> [piece.name for piece in pieces({"part-b.parquet": 65, "part-a.parquet": 0})]
    ['part-b-00000.parquet', 'part-b-00001.parquet']
    """
    return [Piece(part, at) for part, count in sorted(counts.items()) for at in range(-(-count // PROMPTS))]


def training_prompts(part: pa.Table, seed: int, most: float = 1.0) -> list[Row]:
    """Returns the distinct prompts of a triaged part's train split, in its order; a prompt's first pair stands for it.

    Triage puts equal prompts into one part, so that no other part has them.

    Args:
        part: with COLUMNS; most: of the draw in [0, 1) by which a prompt is taken.
    """
    rows = _train_rows(part)
    return [row for draw, row in zip(_draws(rows, seed), rows.values(), strict=True) if draw <= most]


def draws(part: pa.Table, seed: int) -> list[float]:
    """Returns the draw of each distinct training prompt, which its text and the seed fix."""
    return _draws(_train_rows(part), seed)


def _train_rows(part: pa.Table) -> dict[str, Row]:
    distinct: dict[str, Row] = {}
    for row in part.filter(pc.equal(part["split"], Split.TRAIN.value)).to_pylist():
        distinct.setdefault(json.dumps(row["prompt"]), row)
    return distinct


def _draws(rows: Mapping[str, Row], seed: int) -> list[float]:
    return hash_fraction(list(rows), seed, "rounds")


def candidates(greedy: str, samples: Iterable[str]) -> list[str]:
    """Returns the drawn answers that may stand against the greedy one, each once: blanks alone make no difference.

    >>> candidates("No.", ["no.", " No. ", "Yes.", "", "Yes. "])
    ['no.', 'Yes.']
    """
    seen, found = {_words(greedy), ()}, []
    for text in samples:
        if (words := _words(text)) not in seen:
            seen.add(words)
            found.append(text)
    return found


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def best(texts: Sequence[str], p_violates: Sequence[float | None]) -> str:
    """Returns the answer that is least likely to violate, of equals the one drawn first; one without a verdict comes last.

    >>> best(["a", "b", "c", "d"], [None, 0.4, 0.1, 0.1])
    'c'
    """
    order = sorted(range(len(texts)), key=lambda i: (p_violates[i] is None, p_violates[i] or 0.0, i))
    return texts[order[0]]


def own_pair(row: Row, p_violates: Sequence[float | None] | None) -> tuple[Outcome, Row | None]:
    """Returns what becomes of an answered prompt, and the pair, if it does: chosen = greedy, rejected = the best drawn one.

    Args:
        row: as in ANSWER_SCHEMA; p_violates: of its candidates, None where nobody was asked.
    """
    greedy, found = row["greedy"], candidates(row["greedy"] or "", row["samples"])
    if greedy is None:
        return Outcome.REFUSED, None
    if not _words(greedy):
        return Outcome.EMPTY, None
    if not found:
        return (Outcome.IDENTICAL if row["samples"] else Outcome.UNENDED), None
    rejected = best(found, p_violates or [None] * len(found))
    return Outcome.PAIR, pair_row(row["prompt"], greedy, rejected, row["source"])


def pair_row(prompt: Any, chosen: str, rejected: str, source: str) -> Row:
    """Returns a row of OWN_PAIR_SCHEMA."""
    turns = {
        name: [{"role": "assistant", "content": text}] for name, text in (("chosen", chosen), ("rejected", rejected))
    }
    return {"prompt": prompt, **turns, "source": source}


def own_pairs(answers: pa.Table, verdicts: pa.Table | None) -> tuple[pa.Table, Counter[str]]:
    """Returns the pairs of answered prompts, in OWN_PAIR_SCHEMA, and how many prompts came to what.

    Args:
        answers: ANSWER_SCHEMA; verdicts: VERDICT_SCHEMA of the same rows in the same order, None where nobody was asked.
    """
    if verdicts is not None and not verdicts["pair_id"].equals(answers["pair_id"]):
        raise RuntimeError("verdicts and answers of a round are of different prompts")
    told = verdicts["p_violates"].to_pylist() if verdicts is not None else [None] * answers.num_rows
    made = [own_pair(row, p) for row, p in zip(answers.to_pylist(), told, strict=True)]
    counts = Counter(str(outcome) for outcome, _ in made)
    return pa.Table.from_pylist([pair for _, pair in made if pair is not None], schema=OWN_PAIR_SCHEMA), counts


def held_out_pairs(part: pa.Table) -> pa.Table:
    """Returns the pairs of a triaged part's test split as they are, in OWN_PAIR_SCHEMA."""
    test = part.filter(pc.equal(part["split"], Split.TEST.value)).to_pylist()
    rows = [pair_row(row["prompt"], row["chosen"], row["rejected"], row["source"]) for row in test]
    return pa.Table.from_pylist(rows, schema=OWN_PAIR_SCHEMA)
