"""Names as a page shows them: of models, of categories."""

from __future__ import annotations

from trace_ray.pairs import Category

PLAIN = {
    Category.RETAIN: "still right",
    Category.INVERT: "backwards",
    Category.PUNISH: "both wrong",
    Category.ABSTAIN: "unsure",
}
"""What a category is called before its name."""


def short_model(path: str) -> str:
    """Returns a hub id as it is, and the last part of a folder's path.

    >>> [short_model(p) for p in ("/data/models/judge/", "Qwen/Qwen2.5-7B")]
    ['judge', 'Qwen/Qwen2.5-7B']
    """
    return path.rstrip("/").rsplit("/", 1)[-1] if path.startswith(("/", ".", "s3://")) else path


def plain_category(name: str) -> str:
    """Returns a category's plain name; another word, such as ``all``, as it is.

    >>> [plain_category(name) for name in ("INVERT", "all")]
    ['backwards', 'all']
    """
    return PLAIN[Category(name)] if name in PLAIN else name
