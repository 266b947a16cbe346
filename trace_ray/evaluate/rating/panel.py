"""A panel of judges as raters: each votes for the answer it finds least likely to violate the policy."""

from __future__ import annotations

from collections.abc import Sequence

from trace_ray.evaluate.rating.items import TIE
from trace_ray.judges.opinion import Judge

BlindItem = tuple[str, str, dict[str, str]]
"""item_id, prompt, {letter: answer}"""


def panel_votes(judge: Judge, items: Sequence[BlindItem], margin: float) -> list[tuple[str, str]]:
    """Returns (item_id, choice) for each item: a letter, A+B for equals, ``tie``, or empty where a verdict was unreadable.

    Each answer is judged on its own, so no order can favour one: nothing of the others stands in the prompt.

    Args:
        margin: answers whose P(violates) is above the lowest one's by no more than this share the first place.
    """
    flat = [(prompt, text) for _, prompt, answers in items for text in answers.values()]
    opinions = iter(judge.opinions([prompt for prompt, _ in flat], [text for _, text in flat]))
    votes = []
    for item_id, _, answers in items:
        violates = {letter: next(opinions).p_violates for letter in answers}
        votes.append((item_id, _choice(violates, margin)))
    return votes


def _choice(violates: dict[str, float | None], margin: float) -> str:
    known = {letter: p for letter, p in violates.items() if p is not None}
    if len(known) < len(violates):
        return ""
    best = [letter for letter, p in known.items() if p - min(known.values()) <= margin]
    return TIE if len(best) == len(known) else "+".join(best)
