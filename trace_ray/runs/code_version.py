"""Which code made a result: the version alone does not tell two checkouts apart."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import trace_ray
from trace_ray import __version__

_SOURCES = (".py", ".yaml", ".jinja")


@functools.cache
def code_version() -> str:
    """Returns the version and eight hex digits over the package's source files: equal code, equal text, with or without git.

    >>> code_version().partition("+")[0] == __version__
    True
    """
    package = Path(trace_ray.__file__).parent
    digest = hashlib.sha256()
    for name in sorted(file.relative_to(package).as_posix() for file in package.rglob("*") if file.suffix in _SOURCES):
        if not name.startswith("conf/"):  # only a wheel holds it there; a run keeps its own settings
            digest.update(f"{name}\n".encode() + (package / name).read_bytes())
    return f"{__version__}+{digest.hexdigest()[:8]}"
