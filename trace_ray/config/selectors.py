"""Label selectors: which nodes a task may run on, as Ray reads them; without Ray, for what is checked before it starts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from trace_ray.errors import UserError

POOL = "trace-ray/pool"
"""The label that tells judges' nodes from trainers' in the manifests of clusters/."""
_WORD = r"[A-Za-z0-9](?:[\w.-]{0,61}[A-Za-z0-9])?"
_KEY = re.compile(rf"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{{0,251}}[A-Za-z0-9])?/)?{_WORD}", re.ASCII)
_VALUE = re.compile(rf"(!?)(?:in\(({_WORD}(?:,{_WORD})*)\)|({_WORD}))", re.ASCII)


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Returns whether a node with these labels will do: every key holds; a missing label is none of the words asked for.

    >>> selects({"pool": "in(judge,cpu)", "market": "!spot"}, {"pool": "judge"})
    True
    """
    return all(_holds(value, labels.get(key)) for key, value in selector.items())


def _holds(value: str, label: str | None) -> bool:
    found = _VALUE.fullmatch(value)
    words = (found[2] or found[3]).split(",") if found else [value]
    return (label in words) != bool(found and found[1])


def selector_problems(where: str, selector: Mapping[str, str]) -> Iterator[UserError]:
    """Yields what Ray could not read: it would say so once a cluster runs."""
    for key, value in selector.items():
        if not _KEY.fullmatch(str(key)):
            yield UserError(where, key, f"no label's name; such as {POOL}")
        elif not isinstance(value, str) or not _VALUE.fullmatch(value):
            # A blank after the comma passes Ray's own check (2.60) and is then a part of the word: no node ever has it.
            remedy = "give a label's value, !value, in(one,two) or !in(one,two), without blanks"
            yield UserError(f"{where}.{key}", value, remedy)
