"""Kinds of settings: one of several words, or one that changes speed and place but no result."""

from __future__ import annotations

from dataclasses import field, fields, is_dataclass
from typing import Any


def choice(*values: str) -> Any:
    """A string field that takes one of ``values``; the first is the default. Checked by ``config_load``."""
    return field(default=values[0], metadata={"choices": values})


def resource(default: Any) -> Any:
    """A field that changes speed or place but no result."""
    return field(default=default, metadata={"resource": True})


def resource_choice(*values: str) -> Any:
    """A ``choice`` that changes no result."""
    return field(default=values[0], metadata={"choices": values, "resource": True})


def settings(node: Any, prefix: str) -> dict[str, Any]:
    """Returns {dotted name: value} of every setting below ``node`` that can change a result; ``prefix`` may be empty.

    >>> from trace_ray.config_report import ReportConfig
    >>> settings(ReportConfig(), "report")
    {'report.top_pairs': 100, 'report.examples': 40, 'report.redact': 'none'}
    """
    flat: dict[str, Any] = {}
    for item in fields(node):
        if item.metadata.get("resource"):
            continue
        value, name = getattr(node, item.name), f"{prefix}.{item.name}" if prefix else item.name
        if is_dataclass(value):
            flat |= settings(value, name)
        elif isinstance(value, (list, tuple)):
            flat[name] = repr(list(value))
        else:
            flat[name] = value
    return flat
