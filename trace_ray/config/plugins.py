"""What another package brings: a judge, a corpus format, a tracker. Found by an entry point's name or by a dotted path.

A package names what it has in its pyproject.toml, and a configuration then uses the name as if it were one of ours::

    [project.entry-points."trace_ray.judges"]
    repetition = "my_package:RepetitionJudge"

Without an entry point the path itself is the name: ``triage.judge.backend=my_package:RepetitionJudge``.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from typing import Any

from trace_ray.errors import UserError, nearest

KINDS = ("judges", "formats", "trackers")
"""A group of entry points is ``trace_ray.`` and one of these."""
OWN = {
    "judges": {
        "rules": "trace_ray.judges.rules_judge:RulesJudge",
        "distilled": "trace_ray.judges.distilled:DistilledJudge",
    }
}
"""Ours that are made as another package's are: a judge is a file and a row here. An engine's and an endpoint's take more."""


@functools.cache
def brought(kind: str) -> dict[str, str]:
    """Returns {name: dotted path} of the entry points of one kind that installed packages have."""
    return {
        entry_point.name: entry_point.value
        for entry_point in importlib.metadata.entry_points(group=f"trace_ray.{kind}")
    }


def is_plugin(kind: str, name: object) -> bool:
    """Returns whether a name is an entry point's, or looks like a dotted path; nothing is imported.

    >>> is_plugin("judges", "my_package.judges:Mine"), is_plugin("judges", "vlm")
    (True, False)
    """
    return isinstance(name, str) and (":" in name or name in _paths(kind))


def _paths(kind: str) -> dict[str, str]:
    return brought(kind) | OWN.get(kind, {})


def plugin(kind: str, name: str, setting: str) -> Any:
    """Returns the object that a name stands for, imported from its package.

    Raises: UserError, naming ``setting``, where there is no such package or nothing of that name in it.
    """
    path = _paths(kind).get(name, name)
    module, _, attribute = path.partition(":")
    try:
        return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
    except (ImportError, ValueError) as error:
        remedy = f"cannot be imported here: {' '.join(str(error).split())}; install its package wherever a stage runs"
        raise UserError(setting, name, remedy) from None
    except AttributeError as error:
        known = [public for public in dir(importlib.import_module(module)) if not public.startswith("_")]
        raise UserError(setting, name, f"{error}{nearest(attribute, known)}") from None
