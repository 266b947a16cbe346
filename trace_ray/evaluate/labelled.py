"""The labelled texts that the judge of the answers is held against: the models' own answers, else responses of the corpus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.config import Config
from trace_ray.errors import UserError
from trace_ray.evaluate.answering import CHUNK_ROWS, Chunk, Row, write_part
from trace_ray.evaluate.corrected import LEAST_OF_A_KIND
from trace_ray.judges.labels import SIDES, Label, answers_id, read_broken, read_labels
from trace_ray.pairs import MODELS, prompt_text
from trace_ray.runs.artifacts import RESPONSES, Run, inputs_hash
from trace_ray.storage.location import Location, expand

AUDIT, LABELLED = "audit", "labelled"
"""Folder of the corpus' judged responses in evaluation/; in the place of a model's name, with a hash of which they are."""
ANSWERS, CORPUS = "answers", "responses of the corpus"
"""What the labels are of, in words too."""
SETTING = "evaluate.audit_labels"
Key = tuple[str, str, str]
"""Of a judged row: pair_id, prompt, model."""


class Truth(NamedTuple):
    """What a label says of one text; ``broken``: ids of clauses, where it says which."""

    violates: bool
    broken: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Labels:
    """A file of labels, by pair_id: of both texts, and which clauses they break where it tells of that."""

    labels: Mapping[str, Label]
    broken: Mapping[str, tuple[frozenset[str], frozenset[str]]]

    @classmethod
    def read(cls, config: Config) -> Labels | None:
        """Returns those of ``evaluate.audit_labels``, None without one. Raises UserError for a file that is wrong."""
        path = config.evaluate.audit_labels
        if not path:
            return None
        place = expand((path,), config.storage, SETTING)[0]
        return cls(read_labels(place, SETTING), read_broken(place, SETTING))

    def truths(self, pair: str) -> tuple[Truth, ...]:
        """Returns what is known of a pair's two texts, nothing of a pair without a label."""
        if pair not in self.labels:
            return ()
        label, broken = self.labels[pair], self.broken.get(pair, (frozenset(), frozenset()))
        return Truth(label.chosen, broken[0]), Truth(label.rejected, broken[1])


@dataclass(frozen=True)
class Audited:
    """The labelled texts that count.

    Args:
        of: ANSWERS or CORPUS; chunks: that hold them, of the answers some among others.
    """

    of: str
    truth: Mapping[Key, Truth]
    chunks: Sequence[Chunk]

    def first(self, todo: Iterable[Chunk]) -> list[Chunk]:
        """Returns all chunks to judge, those with labelled texts first: what they show can stop the evaluation."""
        mine = {chunk.name for chunk in self.chunks}
        return [*self.chunks, *(chunk for chunk in todo if chunk.name not in mine)]


def audited_texts(run: Run, labels: Labels, todo: Sequence[Chunk], generated: Location) -> Audited:
    """Returns the labelled answers where there are LEAST_OF_A_KIND of each kind, else the corpus' labelled responses.

    Where no pair of the corpus has a label, few answers are what there is.

    Raises: UserError where neither has one.
    """
    answers = dict(labelled_answers(labels, todo, generated))
    found = Audited(ANSWERS, answers, [c for c in todo if any((*_of(row), c.model) in answers for row in c.prompts)])
    if min(_kinds(answers.values())) >= LEAST_OF_A_KIND:
        return found
    rows = _corpus_rows(run, labels)
    if rows:
        return write_labelled(rows, labels, generated)
    if not answers:
        remedy = "none is of a pair in the run's triaged/, nor of its models' answers (`trace-ray label answers`)"
        raise UserError(SETTING, f"{len(labels.labels)} labels", remedy)
    return found


def _kinds(truths: Iterable[Truth]) -> tuple[int, int]:
    """How many comply, how many violate."""
    said = [truth.violates for truth in truths]
    return len(said) - sum(said), sum(said)


def _of(row: Row) -> tuple[str, str]:
    return row["pair_id"], prompt_text(row["prompt"])


def labelled_answers(labels: Labels, todo: Iterable[Chunk], generated: Location) -> Iterator[tuple[Key, Truth]]:
    """Yields both models' labelled answers to the prompts of ``responses/``, a chunk of prompts at a time.

    Args:
        todo: chunks of all folders and models, answered in ``generated``.
    """
    parts: dict[int, dict[str, Chunk]] = {}
    for chunk in todo:
        if chunk.folder == RESPONSES:
            parts.setdefault(chunk.index, {})[chunk.model] = chunk
    columns = ["pair_id", "prompt", "response"]
    for both in parts.values():
        rows = [(generated / both[model].name).read_parquet(columns).to_pylist() for model in MODELS]
        for base, realigned in zip(*rows, strict=True):
            truths = labels.truths(answers_id(base["prompt"], base["response"], realigned["response"]))
            yield from (
                ((base["pair_id"], base["prompt"], model), truth)
                for model, truth in zip(MODELS, truths, strict=bool(truths))
            )


def _corpus_rows(run: Run, labels: Labels) -> list[Row]:
    """The labelled pairs' responses as if they were answers."""
    wanted = pa.array(list(labels.labels), pa.string())
    rows: list[Row] = []
    for part in run.triaged.tables(["pair_id", "prompt", "source", "category", *SIDES]):
        known = part.filter(pc.is_in(part["pair_id"], value_set=wanted))
        rows += [_answer(row, side) for row in known.to_pylist() for side in SIDES]
    return rows


def _answer(row: Mapping[str, Any], side: str) -> Row:
    kept = {"source": row["source"], "category": row["category"], "response": row[side]}
    return kept | {"pair_id": f"{row['pair_id']}:{side}", "prompt": prompt_text(row["prompt"])}


def write_labelled(rows: Sequence[Row], labels: Labels, generated: Location) -> Audited:
    """Writes the corpus' labelled responses as answers of nobody, for ``AnswerJudge``: other pairs, other parts."""
    model = f"{LABELLED}-{inputs_hash({'ids': [row['pair_id'] for row in rows]})[:8]}"
    named = [row | {"model": model} for row in rows]
    starts = range(0, len(named), CHUNK_ROWS)
    chunks = [Chunk(AUDIT, model, i, named[at : at + CHUNK_ROWS]) for i, at in enumerate(starts)]
    for chunk in chunks:
        write_part(generated / chunk.name, chunk.prompts, None)
    truth = {}
    for row in named:
        pair, _, side = row["pair_id"].rpartition(":")
        truth[row["pair_id"], row["prompt"], model] = labels.truths(pair)[SIDES.index(side)]
    return Audited(CORPUS, truth, chunks)
