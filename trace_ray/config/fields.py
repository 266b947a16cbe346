"""Kinds of settings: one of several words, or one that changes speed and place but no result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass
from typing import Any


def choice(*values: str) -> Any:
    """A string field that takes one of ``values``; the first is the default. Checked by ``config_load``."""
    return field(default=values[0], metadata={"choices": values})


def open_choice(kind: str, *values: str) -> Any:
    """A ``choice`` to which other packages add: what ``plugins`` finds of that kind is taken too."""
    return field(default=values[0], metadata={"choices": values, "plugins": kind})


def resource(default: Any) -> Any:
    """A field that changes speed or place but no result."""
    return field(default=default, metadata={"resource": True})


AUTO = "auto"
"""Of a number that is found out where it is used: when the cluster is known, or on the device."""


CPU_TOKENS = 4096
"""What ``auto`` tokens of a forward are on a CPU, where more is no faster."""


def resource_auto() -> Any:
    """A number, or a yes or no, that changes no result and is found out unless it is given."""
    return field(default=AUTO, metadata={"resource": True, "auto": True})


def resource_choice(*values: str) -> Any:
    """A ``choice`` that changes no result."""
    return field(default=values[0], metadata={"choices": values, "resource": True})


SELECTIVE = "selective"


def resource_switch(*more: str) -> Any:
    """A yes or no, at first no, or one of ``more``; it changes no result. Checked by ``config.check``."""
    return field(default=False, metadata={"resource": True, "switch": more})


SPEED_KEYS = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
    "distributed_executor_backend",
    "disable_custom_all_reduce",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "num_gpu_blocks_override",
    "swap_space",
    "cpu_offload_gb",
    "block_size",
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_parallel_loading_workers",
    "enable_prefix_caching",
    "enable_chunked_prefill",
    "enforce_eager",
    "async_scheduling",
    "disable_log_stats",
)
"""Arguments of vLLM's engine that change speed, memory and place but no result; every other one counts as a setting."""


LABELS = {"resource": True, "labels": True}
"""Metadata of a label selector: which nodes of a cluster will do, label -> value."""

ENGINE = {"resource_keys": SPEED_KEYS}
"""Metadata of a field that holds arguments of vLLM's engine."""


LATER = {"later": True}
"""Metadata of a setting that came later: at its default it is none, so that what ran before it came stays valid."""


def later(default: Any) -> Any:
    """A field that came later, whose default is what was done before."""
    return field(default=default, metadata=LATER)


def later_choice(*values: str) -> Any:
    """A ``choice`` that came later, whose default is what was done before."""
    return field(default=values[0], metadata={"choices": values, **LATER})


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Yields (dotted name, value, metadata) of every setting below ``node``, those in lists of sections too.

    >>> from trace_ray.config.judges import JudgeConfig
    >>> from trace_ray.config.evaluate import EvaluateConfig
    >>> [name for name, _, _ in leaves(EvaluateConfig(panel=[JudgeConfig()])) if name.endswith("].backend")]
    ['panel[0].backend']
    """
    for item in fields(node):
        value, name = getattr(node, item.name), f"{prefix}{item.name}"
        if is_dataclass(value):
            yield from leaves(value, f"{name}.")
        elif isinstance(value, (list, tuple)) and value and is_dataclass(value[0]):
            for number, section in enumerate(value):
                yield from leaves(section, f"{name}[{number}].")
        else:
            yield name, value, item.metadata


def settings(node: Any, prefix: str) -> dict[str, Any]:
    """Returns {dotted name: value} of every setting below ``node`` that can change a result; ``prefix`` may be empty.

    >>> from trace_ray.config.judges import EndpointConfig
    >>> settings(EndpointConfig(), "endpoint")
    {'endpoint.top_logprobs': 20}
    """
    flat: dict[str, Any] = {}
    for item in fields(node):
        value, name = getattr(node, item.name), f"{prefix}.{item.name}" if prefix else item.name
        if item.metadata.get("resource") or (item.metadata.get("later") and value == _default(item)):
            continue
        if is_dataclass(value):
            flat |= settings(value, name)
        elif isinstance(value, (list, tuple)):
            flat[name] = repr(list(value))
        elif free := item.metadata.get("resource_keys"):
            flat[name] = {key: setting for key, setting in value.items() if key not in free}
        else:
            flat[name] = value
    return flat


def _default(item: Field[Any]) -> Any:
    return item.default_factory() if item.default_factory is not MISSING else item.default
