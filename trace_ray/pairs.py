"""Rows as typed contracts: PreferencePair -> TriagedPair -> ScoredPair. Nothing else names a column or a folder.

A triaged row, as a dict::

    {"row": 7, "pair_id": "3f0c...", "source": "pku", "split": "train",
     "prompt": [{"role": "user", "content": "How do I ...?"}], "chosen": "No.", "rejected": "Like this: ...",
     "p_violates_chosen": 0.98, "p_violates_rejected": 0.03, "category": "INVERT", "corrected": None, "judge_error": None,
     "raw_violates_chosen": 0.91, "raw_violates_rejected": 0.08, "clauses_chosen": ["flat_refusal"], "clauses_rejected": None,
     "clause_p_chosen": [{"clause": "flat_refusal", "p": 0.9}, {"clause": "medical", "p": 0.1}], "clause_p_rejected": None,
     "rationale_chosen": "It declines a harmless request.", "rationale_rejected": None}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from enum import StrEnum

import pyarrow as pa

Message = Mapping[str, str]

ROWS_PER_FILE = 1 << 40
"""A row's number is file index x this + line: unique, and it needs no count of the files before."""

LINES_PER_FILE = 1 << 30
"""Rows that a file may hold. What is left of its numbers goes to the further pairs of one row: line + n x this."""

PAIRS_PER_ROW = ROWS_PER_FILE // LINES_PER_FILE


class Category(StrEnum):
    """What the new policy makes of a pair (paper, section 3)."""

    INVERT = "INVERT"
    PUNISH = "PUNISH"
    RETAIN = "RETAIN"
    ABSTAIN = "ABSTAIN"


CONFLICTS = (Category.INVERT, Category.PUNISH)
TRAINED = (Category.INVERT, Category.PUNISH, Category.RETAIN)


def complies(p_violates: float | None, threshold: float, band: float) -> bool | None:
    """Returns whether a response complies; None where it cannot be told.

    Args:
        p_violates: P(violates) in [0, 1], None where the judge gave none.
        threshold: it violates from here on.
        band: half-width around the threshold in which nothing is decided.
    """
    if p_violates is None or abs(p_violates - threshold) < band:
        return None
    return p_violates < threshold


def categorise(chosen_complies: bool | None, rejected_complies: bool | None) -> Category:
    """Returns the category of a pair.

    Source: the paper's Type I and Type II conflicts; ABSTAIN, where a needed bit is unknown, is ours. A chosen
    response that complies is RETAIN whatever the other one is.
    """
    if chosen_complies:
        return Category.RETAIN
    if chosen_complies is None or rejected_complies is None:
        return Category.ABSTAIN
    return Category.INVERT if rejected_complies else Category.PUNISH


class Split(StrEnum):
    """Which pairs are trained on and which are kept to evaluate."""

    TRAIN = "train"
    TEST = "test"


class RejectReason(StrEnum):
    """Why a row was refused: not a pair, a repeated one, one that its judge does not survive or no model can read."""

    BROKEN_JSON = "broken_json"
    BROKEN_CSV = "broken_csv"
    WRONG_ENCODING = "wrong_encoding"
    MISSING_FIELD = "missing_field"
    EMPTY_FIELD = "empty_field"
    NOT_A_DIALOGUE = "not_a_dialogue"
    IDENTICAL_RESPONSES = "identical_responses"
    NO_PREFERENCE = "no_preference"
    NOT_A_PAIR = "not_a_pair"
    UNSUPPORTED_TURN = "unsupported_turn"
    TOO_LONG = "too_long"
    DUPLICATE_PAIR = "duplicate_pair"
    HELD_OUT_PROMPT = "held_out_prompt"
    KILLS_JUDGE = "kills_judge"
    TEMPLATE_REFUSES = "template_refuses"
    EQUAL_AFTER_CUT = "equal_after_cut"


RESPONSE_NAMES = ("chosen", "rejected", "corrected")

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

PAIR_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("pair_id", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("prompt", MESSAGES),
        ("chosen", pa.string()),
        ("rejected", pa.string()),
    ]
)
"""One preference pair. ``row`` is its place in the corpus, unique in a run (``line_of``); ``pair_id`` a hash of its
content."""

REJECT_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("source", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
"""One refused row; ``detail`` is the start of what was read."""

CLAUSES = pa.list_(pa.string())
CLAUSE_P = pa.list_(pa.struct([("clause", pa.string()), ("p", pa.float64())]))
"""P(breaks) of each clause that could be read, in the policy's order."""

TRIAGED_SCHEMA = pa.schema(
    [
        *PAIR_SCHEMA,
        ("p_violates_chosen", pa.float64()),
        ("p_violates_rejected", pa.float64()),
        ("category", pa.string()),
        ("corrected", pa.string()),
        ("judge_error", pa.string()),
        ("raw_violates_chosen", pa.float64()),
        ("raw_violates_rejected", pa.float64()),
        ("clauses_chosen", CLAUSES),
        ("clauses_rejected", CLAUSES),
        ("clause_p_chosen", CLAUSE_P),
        ("clause_p_rejected", CLAUSE_P),
        ("rationale_chosen", pa.string()),
        ("rationale_rejected", pa.string()),
    ]
)
"""A judged pair. A null probability has its cause in ``judge_error``; ``corrected`` is a y_c that was judged compliant.
``p_violates_*`` is calibrated where an audit calibrates, ``raw_violates_*`` what the judge said. ``clauses_*``: ids of
the clauses that a violating response breaks, likeliest first, null where nobody asked; ``clause_p_*``: P of each clause.
``rationale_*``: the reasons of a judge that gives them."""

TOKENS = pa.list_(pa.int32())


def _response_fields() -> list[tuple[str, pa.DataType]]:
    kinds = {"ids": TOKENS, "ref_logp": pa.float64(), "s": pa.float64()}
    return [(f"{name}_{kind}", dtype) for name in RESPONSE_NAMES for kind, dtype in kinds.items()]


SCORED_SCHEMA = pa.schema(
    [
        *TRIAGED_SCHEMA,
        ("prompt_ids", TOKENS),
        *_response_fields(),
        ("cut", pa.list_(pa.string())),
        ("ches", pa.float64()),
        ("ches_per_token", pa.float64()),
        ("impact", pa.float64()),
        ("weight", pa.float64()),
    ]
)
"""What training reads. The tokens of a response are ``prompt_ids`` + ``{name}_ids`` and its mask is 1 on the latter;
``cut`` names what lost text to model.max_length: prompt, or responses.
``{name}_ref_logp`` is log pi_ref(y|x) in nats, ``{name}_s`` the score s(y); null where the
objective needs none, and s(y) also where a pair was scored as one row (``impact.share_prompts``). ``ches*``: how alike the
preferred side is to the suppressed one (``impact/ches.py``); null where a term prefers nothing. Log-ratios have no column: the
scored model is the reference, at which they are 0; what a first step does to log pi(y|x) is s(y)."""

GOLD_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("category", pa.string()),
        ("prompt_ids", TOKENS),
        ("preferred_ids", TOKENS),
        ("dispreferred_ids", TOKENS),
        ("preferred", pa.string()),
        ("dispreferred", pa.string()),
    ]
)
"""One pair of the gold batch, as trained on (Algorithm 2)."""

MODELS = ("base", "realigned")
"""Which model an answer or a figure is of: before and after."""

RESPONSE_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("prompt", pa.string()),
        ("source", pa.string()),
        ("category", pa.string()),
        ("model", pa.string()),
        ("response", pa.string()),
        ("p_violates", pa.float64()),
        ("compliant", pa.bool_()),
        ("judge_error", pa.string()),
        ("clause_p", CLAUSE_P),
    ]
)
"""One answer of one of the MODELS to one held-out prompt."""


def fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Returns the table in a schema; columns that it lacks, as those of earlier versions do, are null."""
    have = set(table.column_names)
    columns = [table[f.name] if f.name in have else pa.nulls(table.num_rows, f.type) for f in schema]
    return pa.table(columns, schema=schema)


def pair_id(prompt: Sequence[Message], chosen: str, rejected: str) -> str:
    """Returns 32 hex digits that depend on the content alone, not on file, row or run.

    >>> pair_id([{"role": "user", "content": "hi"}], "yes", "no")
    'ad4c11d4350ce14e5ec3bb3f3852d263'
    """
    turns = [[turn["role"], turn["content"]] for turn in prompt]
    return hashlib.sha256(json.dumps([turns, chosen, rejected], ensure_ascii=False).encode()).hexdigest()[:32]


def line_of(row: int) -> int:
    """Returns the line, from 1, of its file that a row's number stands for, whichever of its pairs it is.

    >>> line_of(3 * ROWS_PER_FILE + 6), line_of(3 * ROWS_PER_FILE + 2 * LINES_PER_FILE + 6)
    (7, 7)
    """
    return row % ROWS_PER_FILE % LINES_PER_FILE + 1


def prompt_text(prompt: Sequence[Message]) -> str:
    """Returns the prompt as people read it: the bare text of a single user turn, else one paragraph a turn."""
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return prompt[0]["content"]
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in prompt)


def hash_fraction(ids: Sequence[str], seed: int, purpose: str = "") -> list[float]:
    """Returns a number in [0, 1) for each id, fixed by id, seed and purpose: sampling that no order or sharding changes.

    Draws for different purposes are independent, whatever their seeds: who is in the gold batch must not say whose label
    is damaged.
    """
    head = f"{purpose}:{seed}" if purpose else str(seed)
    return [int(hashlib.sha256(f"{head}:{item_id}".encode()).hexdigest()[:13], 16) / 16**13 for item_id in ids]
