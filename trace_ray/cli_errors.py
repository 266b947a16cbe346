"""What the command line says of whatever ended a command."""

from __future__ import annotations

import tempfile
import traceback

from trace_ray.errors import UserError


def told(error: Exception) -> tuple[int, str]:
    """Returns the exit code and the line for what ended a command; of a fault that is nobody's mistake the trace is kept."""
    if isinstance(error, UserError):
        return 2, str(error)
    said = " ".join(str(error).split())[:300]
    if type(error).__module__.partition(".")[0] == "botocore":
        return 2, f"storage: {said}: look at credentials, bucket, storage.region and storage.endpoint"
    if isinstance(error, OSError) and error.filename is not None:
        return 2, f"{error.filename}: {error.strerror}: name a file or folder that can be read, or written, there"
    with tempfile.NamedTemporaryFile("w", prefix="trace-ray-", suffix=".txt", delete=False, encoding="utf-8") as kept:
        kept.writelines(traceback.format_exception(error))
    return 1, f"{type(error).__name__}: {said}: not foreseen; its trace is in {kept.name}, or run with --debug"
