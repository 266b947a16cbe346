"""The exceptions that users meet; anything else that escapes is a bug of ours."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Any


class UserError(Exception):
    """A mistake in a setting, a file or a row: printed as one line, exit code 2.

    Args:
        where: the setting (dotted) or the place (``file.jsonl:12``) that is wrong.
        seen: the value found there.
        remedy: what to do about it.
    """

    def __init__(self, where: str, seen: object, remedy: str) -> None:
        self.where, self.seen, self.remedy = where, seen, remedy
        super().__init__(f"{where}: {seen!s}: {remedy}")

    def __reduce__(self) -> tuple[type[UserError], tuple[str, object, str]]:
        """Ray pickles exceptions; the default would call ``__init__`` with the message alone."""
        return type(self), (self.where, self.seen, self.remedy)


class StalledError(Exception):
    """The run got nothing done for long: exit code 3, for whoever started it to try again."""


class StaleRunError(UserError):
    """A run's folder was made from other inputs than those given now."""


class NothingToTrainError(UserError):
    """No training pair conflicts with the policy: of a run a mistake, of its further rounds the end."""


class JudgeRejectedError(UserError):
    """A judge does not keep a limit that canaries, or labels, hold it to, such as ``triage.min_auc``."""


def inside(error: BaseException) -> Iterator[BaseException]:
    """Yields an exception and all that it was raised from or that Ray wrapped in it, each once."""
    queue: list[Any] = [error]
    seen: set[int] = set()
    while queue:
        cause = queue.pop()
        if not isinstance(cause, BaseException) or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        queue += [cause.__cause__, cause.__context__]
        queue += [getattr(cause, name, None) for name in ("cause", "controller_failure", "_base_exc")]
        queue += [*getattr(cause, "worker_failures", {}).values(), *cause.args]  # args: why an actor could not be built


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns `` (did you mean 'x'?)`` for the nearest known word, else an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


class CardMemoryError(UserError):
    """What is asked for at once is more than a card holds: one process of many may be alone in meeting it."""


class EngineStartError(UserError):
    """Nobody's mistake: a hub that fails, a card that another process still fills. The same again may succeed."""
