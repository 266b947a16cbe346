"""Names of models as a page shows them."""

from __future__ import annotations


def short_model(path: str) -> str:
    """Returns a hub id as it is, and the last part of a folder's path.

    >>> [short_model(p) for p in ("/data/models/judge/", "Qwen/Qwen2.5-7B")]
    ['judge', 'Qwen/Qwen2.5-7B']
    """
    return path.rstrip("/").rsplit("/", 1)[-1] if path.startswith(("/", ".", "s3://")) else path
