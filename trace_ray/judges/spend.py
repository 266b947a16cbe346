"""What endpoints cost: requests, tokens and, where their prices are given, money. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trace_ray.config import EndpointConfig, TriageConfig
from trace_ray.config.gpus import JUDGES

COUNTED_AS = {name: "" if name == "judge" else f"{name.removesuffix('judge')}" for name in JUDGES}
"""How the names of a judge's counts begin, by its setting below ``triage``: ``second_`` of second_judge."""


@dataclass(frozen=True)
class Spend:
    """What endpoints were asked.

    Args:
        price: None where no endpoint has one; tokens: read and written.
    """

    requests: int
    tokens: int
    price: float | None

    def __str__(self) -> str:
        price = "" if self.price is None else f", {self.price:,.2f} spent"
        return f"{self.requests:,} requests, {self.tokens / 1e6:,.2f} M tokens{price}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def price(endpoint: EndpointConfig, read: int, written: int) -> float | None:
    """Returns what tokens cost; None where the endpoint has no price.

    >>> price(EndpointConfig(prompt_price=2.0, answer_price=8.0), 500_000, 250_000)
    3.0
    """
    if not (endpoint.prompt_price or endpoint.answer_price):
        return None
    return (read * endpoint.prompt_price + written * endpoint.answer_price) / 1e6


def spent(triage: TriageConfig, used: Mapping[str, int]) -> Spend | None:
    """Returns what the endpoints of a triage's judges were asked; None where it has none.

    Args:
        used: what its judges used, under the names of their counts.
    """
    judges = {name: getattr(triage, name) for name in JUDGES}
    endpoints = {COUNTED_AS[n]: judge.endpoint for n, judge in judges.items() if judge and judge.backend == "openai"}
    if not endpoints:
        return None
    requests, tokens, written = (
        {prefix: used.get(f"{prefix}{what}", 0) for prefix in endpoints}
        for what in ("requests", "endpoint_tokens", "endpoint_written")
    )
    prices = (price(endpoint, tokens[p] - written[p], written[p]) for p, endpoint in endpoints.items())
    return Spend(sum(requests.values()), sum(tokens.values()), total(prices))


def total(prices: Iterable[float | None]) -> float | None:
    """Returns the sum of the prices that are known, None where none is."""
    known = [each for each in prices if each is not None]
    return sum(known) if known else None
