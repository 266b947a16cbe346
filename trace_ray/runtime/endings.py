"""What the command line says of whatever ended a command."""

from __future__ import annotations

import re
import tempfile
import traceback
from itertools import dropwhile

from trace_ray.errors import StalledError, UserError, inside

_CHARACTERS = 300
_LATE = "timed out during startup"
"""Ray's words, in a plain Exception, where its own processes took longer than it waits."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_TRACE = re.compile(r'^\s+File ".+", line \d+', re.MULTILINE)


def told(error: Exception) -> tuple[int, str]:
    """Returns the exit code and the line for what ended a command; of a fault that is nobody's mistake the trace is kept."""
    if isinstance(error, UserError):
        return 2, str(error)
    if isinstance(error, StalledError):
        return 3, str(error)
    if type(error).__module__.partition(".")[0] == "botocore":
        said = _one_line(str(error))
        if _unanswered(error):  # no mistake: a job on a cluster may be tried again
            return 1, f"storage: {said}: it does not answer now; the same command goes on where this one was"
        return 2, f"storage: {said}: look at credentials, bucket, storage.region and storage.endpoint"
    if isinstance(error, OSError) and error.filename is not None:
        return 2, f"{error.filename}: {error.strerror}: name a file or folder that can be read, or written, there"
    if _LATE in str(error):
        return 1, "Ray did not start in time: this machine is busy; the same command goes on where this one was"
    with tempfile.NamedTemporaryFile("w", prefix="trace-ray-", suffix=".txt", delete=False, encoding="utf-8") as kept:
        kept.writelines(traceback.format_exception(error))
    return 1, f"{reason(error)}: not foreseen; its trace is in {kept.name}, or run with --debug"


def reason(error: BaseException) -> str:
    """Returns an exception's type and what it says in one line; of one that Ray wrapped, those of the one inside.

    Ray's own begin with a page of header: process, class, actor, trace.

    >>> reason(KeyError("part"))
    "KeyError: 'part'"
    """
    ours = next((cause for cause in inside(error) if not _is_rays(cause)), error)
    text = _COLOUR.sub("", str(ours))
    trace = list(_TRACE.finditer(text))
    if not trace:
        return f"{type(ours).__name__}: {_one_line(text)}"
    after = text[trace[-1].end() :].splitlines()[1:]
    raised = list(dropwhile(lambda line: not line.strip() or line[0].isspace(), after))  # the frame's code before it
    return _one_line(" ".join(raised)) if raised else f"{type(ours).__name__}: {_one_line(text)}"


def _unanswered(error: Exception) -> bool:
    """Whether nobody answered, unlike a refusal or missing credentials."""
    from botocore.exceptions import ConnectionError as NotConnectedError
    from botocore.exceptions import HTTPClientError, IncompleteReadError

    return isinstance(error, NotConnectedError | HTTPClientError | IncompleteReadError)


def _is_rays(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == "ray"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_CHARACTERS]
