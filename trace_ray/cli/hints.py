"""What somebody probably meant who typed a command that cannot be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise


def hint(words: Sequence[str], examples: Mapping[str, str]) -> str:
    """Returns the end of the line for a command that cannot be read.

    Args:
        words: as they were typed.
        examples: of each command, one call.

    >>> hint(["run", "my.yaml", "--run", "runs/mine"], {})
    'A file of settings is given with -c: -c my.yaml'
    >>> hint(["run", "-c", "my.yaml"], {"run": "trace-ray run -c my.yaml --run runs/first"})
    'Example: trace-ray run -c my.yaml --run runs/first (more: trace-ray run -h)'
    >>> hint(["rnu"], {})
    'See trace-ray -h'
    """
    bare = [word for before, word in pairwise(["", *words]) if is_file(word) and not before.startswith("-")]
    if bare:
        return f"A file of settings is given with -c: -c {bare[0]}"
    command = next((word for word in words if not word.startswith("-")), "")
    return f"Example: {examples[command]} (more: trace-ray {command} -h)" if command in examples else "See trace-ray -h"


def is_file(word: str) -> bool:
    """Returns whether a word looks like a file of settings, and not like a setting."""
    return word.endswith((".yaml", ".yml")) and "=" not in word and not word.startswith("-")
