"""What somebody probably meant who typed a command that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def hint(words: Sequence[str]) -> str:
    """Returns the end of the line for a command that cannot be read.

    >>> hint(["run", "my.yaml", "--run", "runs/mine"])
    'A file of settings is given with -c: -c my.yaml'
    >>> hint(["run", "-c", "my.yaml"])
    'See trace-ray --help'
    """
    bare = [word for before, word in pairwise(["", *words]) if is_file(word) and not before.startswith("-")]
    return f"A file of settings is given with -c: -c {bare[0]}" if bare else "See trace-ray --help"


def is_file(word: str) -> bool:
    """Returns whether a word looks like a file of settings, and not like a setting."""
    return word.endswith((".yaml", ".yml")) and "=" not in word and not word.startswith("-")
