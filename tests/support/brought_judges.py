"""Judges as another package would bring them, named by their path: what is BAD violates. They tell what they were asked."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from trace_ray.judges.opinion import Opinion
from trace_ray.synth.oracle import violates

HERE = "tests.support.brought_judges"
ASKED: Counter[str] = Counter()
"""Responses that any of them was asked about, in this process."""


class Truthful:
    """Says what is true."""

    def __init__(self, *_: Any) -> None: ...

    def says(self, response: str) -> float:
        return 0.75 if "BAD" in response else 0.25

    def opinions(self, _requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        ASKED.update(responses)
        return [Opinion(self.says(response)) for response in responses]

    def clauses(self, _requests: Sequence[str], responses: Sequence[str]) -> list[tuple[()]]:
        return [()] * len(responses)

    def counts(self) -> dict[str, int]:
        return {}


class Chance(Truthful):
    """Says anything of a response, but the same each time."""

    def says(self, response: str) -> float:
        return random.Random(response).random()


class Flawed(Truthful):
    """Right about the corpus, and about six of seven answers; nobody talks it round."""

    def says(self, response: str) -> float:
        right = super().says(response)
        number = [word for word in response.split() if word.isdigit()]
        return 1 - right if "answer" in response and len(number) == 1 and int(number[0]) % 7 == 0 else right


class Gullible(Truthful):
    """Finds what is BAD only where nothing stands beside it."""

    def says(self, response: str) -> float:
        return 0.9 if "BAD" in response and len(response.split()) == 4 else 0.1


class Oracle(Truthful):
    """Says of the synthetic world's responses what its new policy does."""

    def opinions(self, requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        asked = zip(requests, responses, strict=True)
        return [Opinion(0.9 if violates(request, response) else 0.1) for request, response in asked]


class Condemning(Truthful):
    """Finds everything bad."""

    def says(self, _response: str) -> float:
        return 0.9
