"""What an endpoint answers to one request, and which answers another try may change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trace_ray.errors import UserError

_REFUSED = {401: "the key is wrong or missing", 403: "the key may not do this", 404: "no such path or model"}


@dataclass(frozen=True)
class Reply:
    """An answer's JSON object (empty for JSON of another kind), or why there is none; ``final`` = asked again, the same."""

    body: dict[str, Any] | None
    error: str | None = None
    final: bool = True


def failed_reply(status: int, text: str, where: str, url: str) -> Reply:
    """Returns the reply that an HTTP status other than 200 is. Raises UserError where the endpoint refuses us."""
    error = f"endpoint {status}: {' '.join(text.split())[:200]}"
    if status in _REFUSED:
        raise UserError(where, f"{url}: {error}", _REFUSED[status])
    return Reply(None, error, final=not (status in (408, 409, 425, 429) or status >= 500))


def tokens_of(answer: Mapping[str, Any]) -> tuple[int, int]:
    """Returns the tokens that an answer says it took in all, and of these the written ones.

    >>> tokens_of({"usage": {"prompt_tokens": 7, "completion_tokens": 3}})  # some endpoints leave the total out
    (10, 3)
    """
    usage = answer.get("usage")
    told = usage if isinstance(usage, dict) else {}
    read, written, in_all = (int(told.get(f"{which}_tokens") or 0) for which in ("prompt", "completion", "total"))
    return in_all or read + written, written
