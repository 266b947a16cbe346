"""Keeps secrets out of configuration: it is written into every run's folder, its report and Ray's logs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from trace_ray.errors import UserError

_SECRET_NAME = re.compile(
    r"(^|[._-])(token|secret|password|passwd|api_?key|access_?key|private_?key|credential)s?$", re.IGNORECASE
)
_PLURAL_OF_COUNT = re.compile(r"(^|_)tokens$")  # max_num_batched_tokens is a number, not a secret
_SECRET_VALUE = re.compile(
    r"(?<![A-Z0-9])(AKIA|ASIA)[A-Z0-9]{12,}|\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|-----BEGIN [A-Z ]*PRIVATE KEY|"
    r"://[^/\s:@]+:[^/\s@]+@|"
    r"(?i:[?&]((api|access|auth)?[-_]?(key|token)|sig|signature|password|secret|x-amz-(signature|security-token))=[^&\s])"
)


def refuse_secrets(where: str, values: Mapping[str, Any]) -> None:
    """Raises UserError for a setting that looks like a secret, or would fetch one from the environment.

    The message names the setting, never the value.

    Args:
        where: the file, or ``override key.path=value``.
    """
    source = where.partition("=")[0]
    for name, value in _leaves(values, ""):
        if isinstance(value, str) and "${" in value:
            raise UserError(f"{source}: {name}", "${", "configuration reads no environment and refers to nothing")
        named = _SECRET_NAME.search(name) and not _PLURAL_OF_COUNT.search(name) and isinstance(value, str) and value
        if named or (isinstance(value, str) and _SECRET_VALUE.search(value)):
            remedy = "configuration is written into the run's folder; give secrets by environment, role or mounted file"
            raise UserError(f"{source}: {name}", "looks like a secret", remedy)


def _leaves(node: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _leaves(value, name)
    else:
        yield name, node
