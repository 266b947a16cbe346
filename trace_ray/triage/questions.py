"""What a judge is asked of a block of pairs: each distinct response once, what is refused beforehand left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.pairs import MESSAGES, prompt_text
from trace_ray.triage.refusals import refusals


@dataclass(frozen=True)
class Questions:
    """What is asked of a block: each distinct response once.

    Args:
        new: the pairs that are not refused beforehand, SLOT_SCHEMA; refused: the others, see ``refusals``.
        requests: of ``new``; sides: for chosen and rejected, which of ``asked`` each row's is.
        asked: (request, response, slot of the request), each pair of texts once; those of one request stand together, so
            that a judge's prefix cache has it for all but the first of them.
    """

    new: pa.Table
    refused: pa.Table
    requests: list[str]
    sides: list[list[int]]
    asked: list[tuple[str, str, int]]


def questions_of(pairs: pa.Table) -> Questions:
    """Returns what is asked of pairs in SLOT_SCHEMA, ordered by row."""
    texts = prompt_texts(pairs["prompt"])
    refused = refusals(pairs, texts)
    kept = pc.invert(pc.is_in(pairs["row"], refused["row"].combine_chunks()))
    new = pairs.filter(kept)
    requests = [text for text, good in zip(texts, kept.to_pylist(), strict=True) if good]
    chosen, rejected = new["chosen"].to_pylist(), new["rejected"].to_pylist()
    responses: dict[str, dict[str, None]] = {}
    for request, good, bad in zip(requests, chosen, rejected, strict=True):
        responses.setdefault(request, {}).update({good: None, bad: None})
    both_of = [(request, response) for request, some in responses.items() for response in some]
    place = {both: number for number, both in enumerate(both_of)}
    sides = [[place[key] for key in zip(requests, side, strict=True)] for side in (chosen, rejected)]
    slot_of = dict(zip(requests, new["slot"].to_pylist(), strict=True))
    return Questions(new, refused, requests, sides, [(*both, slot_of[both[0]]) for both in place])


def columns_of(asked: Sequence[tuple[str, str, int]]) -> tuple[list[str], list[str], list[int]]:
    return [request for request, _, _ in asked], [response for _, response, _ in asked], [slot for _, _, slot in asked]


def prompt_texts(prompts: pa.ChunkedArray) -> list[str]:
    """Returns ``pairs.prompt_text`` of each prompt; single user turns, the common case, without a dict a row."""
    column = prompts.combine_chunks() if isinstance(prompts, pa.ChunkedArray) else prompts
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], MESSAGES)
    flat = column.flatten()
    if len(flat) == len(column) and pc.all(pc.equal(flat.field("role"), "user")).as_py() is not False:
        return list(flat.field("content").to_pylist())
    return [prompt_text(prompt) for prompt in column.to_pylist()]
