"""What endpoints cost: requests, tokens and, where their prices are given, money. Within a budget. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trace_ray.config import EndpointConfig, TriageConfig
from trace_ray.config.gpus import JUDGES
from trace_ray.errors import UserError
from trace_ray.judges.replies import tokens_of

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


@dataclass
class Account:
    """What this process has asked of one endpoint, within what it may.

    Args:
        where: the setting that the endpoint comes from.
        retries: of the requests, those that were sent before; written: of the tokens.
    """

    endpoint: EndpointConfig
    where: str
    requests: int = 0
    retries: int = 0
    tokens: int = 0
    written: int = 0

    def spend(self, requests: int) -> None:
        """Counts requests that are about to be sent. Raises: UserError where the budget does not hold them."""
        for name, spent, limit in (
            ("max_requests", self.requests + requests - 1, self.endpoint.max_requests),
            ("max_tokens", self.tokens, self.endpoint.max_tokens),
        ):
            if limit and spent >= limit:
                remedy = "this process' budget is spent; what is judged is kept: raise it, run the same command again"
                raise UserError(f"{self.where}.{name}", limit, remedy)
        self.requests += requests

    def answered(self, answer: Mapping[str, Any]) -> int:
        """Counts what an answer says it took, and returns its tokens."""
        took, written = tokens_of(answer)
        self.tokens += took
        self.written += written
        return took

    def counts(self) -> dict[str, int]:
        used = {"endpoint_tokens": self.tokens, "endpoint_written": self.written}
        return {"requests": self.requests, "retries": self.retries, **used}


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
