"""Blind comparisons: two or three systems' answers to one prompt under letters, in an order that tells nothing."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trace_ray.errors import UserError

LETTERS = "ABC"
TIE, BAD = "tie", "bad"
"""No difference, and none of them is any good: in a win rate both are ties."""
Answers = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""{system: {pair_id: answer with prompt and response}}"""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One comparison.

    Args:
        item_id: tells nothing of systems or prompts, and fits this export alone.
        answers: letter -> text; systems: letter -> system, for the key alone.
    """

    item_id: str
    prompt: str
    answers: dict[str, str]
    systems: dict[str, str]


def blind_items(answers: Answers, count: int, seed: int) -> tuple[list[Item], int]:
    """Returns at most ``count`` items in random order (0 = all), and how many prompts had all answers alike.

    Such prompts leave nothing to choose and are not shown.

    Raises: UserError for fewer than two or more than three systems, or none with a prompt in common.
    """
    systems = sorted(answers)
    if not 2 <= len(systems) <= len(LETTERS):
        raise UserError(
            "rate", f"{len(systems)} systems", "compare two or three: one run (base and realigned), or 2-3 runs"
        )
    shared = sorted(set.intersection(*(set(answers[name]) for name in systems)))
    if not shared:
        raise UserError("rate", "no prompt in common", "the runs must have answered the same held-out prompts")
    texts = {p: [answers[name][p]["response"].strip() for name in systems] for p in shared}
    different = [p for p in shared if len(set(texts[p])) > 1]
    rng = random.Random(f"rating {seed}")  # noqa: S311 - a shuffle, no secret
    rng.shuffle(different)
    items = []
    for place, pair_id in enumerate(different[: count or None]):
        order = rng.sample(systems, len(systems))
        items.append(
            Item(
                item_id=_item_id(seed, place, [[name, answers[name][pair_id]["response"]] for name in order]),
                prompt=answers[order[0]][pair_id]["prompt"],
                answers={
                    letter: answers[name][pair_id]["response"] for letter, name in zip(LETTERS, order, strict=False)
                },
                systems=dict(zip(LETTERS, order, strict=False)),
            )
        )
    return items, len(shared) - len(different)


def _item_id(seed: int, place: int, shown: list[list[str]]) -> str:
    """Changes with the systems, their answers and their letters: another export's ratings fit no item of this one.

    The letter in front keeps a spreadsheet from reading a number.
    """
    return f"i{hashlib.sha256(json.dumps([seed, place, shown]).encode()).hexdigest()[:12]}"


def items_csv(items: Sequence[Item]) -> str:
    """Returns the items as CSV, with empty columns rater and choice for people who prefer a spreadsheet."""
    letters = list(items[0].answers) if items else []
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["item_id", "prompt", *(f"answer_{letter}" for letter in letters), "rater", "choice"])
    for item in items:
        writer.writerow([_cell(v) for v in (item.item_id, item.prompt, *item.answers.values(), "", "")])
    return out.getvalue()


def _cell(text: str) -> str:
    """A text that a spreadsheet would take for a formula is marked as text."""
    return f"'{text}" if text[:1] in tuple("=+-@\t\r") else text
