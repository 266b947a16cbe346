"""Which failures may pass by themselves: a hub or a store that does not answer now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

Answer = TypeVar("Answer")

_CLIENTS = ("httpx", "requests", "urllib3", "aiohttp", "botocore")
"""Libraries whose errors, unless they carry an answer's status, say that nobody answered."""


def answered(ask: Callable[[], Answer]) -> Answer | None:
    """Returns what a hub answers; None where it does not, or has not what was asked for.

    Its client raises errors of its own, of its HTTP library and of the system; what is none of these is a fault of ours.
    """
    try:
        return ask()
    except Exception as error:
        if not (isinstance(error, OSError | ValueError) or passing(error)):
            raise
        return None


def passing(error: BaseException) -> bool:
    """Returns whether a hub or a store failed for now: a 5xx, a 429, a time-out, a broken connection."""
    for cause in chain(error):
        status = _status(cause)
        if status:
            return status in (408, 425, 429) or status >= 500
        if type(cause).__name__ == "OfflineModeIsEnabled":  # asked for, though a ConnectionError
            return False
        if isinstance(cause, ConnectionError | TimeoutError) or type(cause).__module__.startswith(_CLIENTS):
            return True
    return False


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yields an error and what it was raised from or while handling, outermost first."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _status(error: BaseException) -> int:
    """The HTTP status of the answer that an error carries, 0 where it carries none."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return int(getattr(response, "status_code", 0) or 0)
