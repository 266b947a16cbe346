"""How fast an endpoint may be asked: requests and tokens a minute, told apart from what a 429 says afterwards."""

from __future__ import annotations

from dataclasses import dataclass

_MINUTE_S = 60.0


@dataclass
class Limit:
    """So much a minute, spread evenly: after an amount is used, the next may be used when its time is over.

    Args:
        per_minute: 0 = no limit.
        free_at: when the next may be used, in seconds of any clock.
    """

    per_minute: float
    free_at: float = 0.0

    def use(self, amount: float, now: float) -> None:
        """Books an amount; one that became known late, as an answer's tokens do, delays what comes after it."""
        if self.per_minute:
            self.free_at = max(self.free_at, now) + _MINUTE_S * amount / self.per_minute

    def wait(self, now: float) -> float:
        """Returns the seconds until something may be used again."""
        return max(0.0, self.free_at - now)


class Pace:
    """Both limits of one endpoint.

    Args:
        requests, tokens: a minute; 0 = no limit.
    """

    def __init__(self, requests: float, tokens: float) -> None:
        self.requests, self.tokens = Limit(requests), Limit(tokens)

    def take_turn(self, now: float) -> float:
        """Books one request and returns the seconds that it must wait before it is sent."""
        wait = max(self.requests.wait(now), self.tokens.wait(now))
        self.requests.use(1, now + wait)
        return wait

    def used(self, tokens: int, now: float) -> None:
        """Books the tokens that an answer says it took."""
        self.tokens.use(tokens, now)
