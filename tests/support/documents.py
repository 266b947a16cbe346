"""Reads the documents: blocks, the commands in them, and the code within lines."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / name for name in ("README.md", "conf/README.md")]
DOCUMENTS += [ROOT / "trace_ray" / area / "README.md" for area in ("study", "triage", "impact", "realign", "plan")]
DOCUMENTS += [
    ROOT / name for name in ("tests/fault/README.md", "tests/gpu/README.md", "CONTRIBUTING.md", "SECURITY.md")
]
DOCUMENTS += [ROOT / name for name in ("jobs/README.md", "clusters/README.md", "clusters/SCALING.md")]
DOCUMENTS += sorted((ROOT / "tests" / "bench" / "pages").glob("*.md"))
"""In the order in which a reader types their commands: a later one may use what an earlier one made."""

_FENCED = re.compile(r"(?ms)^```(\w*)\n(.*?)^```$")
_INDENTED = re.compile(r"(?:\A|\n\n)((?: {4}.*\n(?:\n(?= {4}))?)+)")
_DRAWING = re.compile(r"(?m)[┏│]|^ *v$")


class Block(NamedTuple):
    """A fenced block, or an indented one (language "")."""

    language: str
    text: str


class Command(NamedTuple):
    """A command line, continued lines joined, with the comments that are about it."""

    text: str
    about: str


def name_of(path: Path) -> str:
    """Returns a document's path below the root."""
    return str(path.relative_to(ROOT))


@functools.cache
def blocks(path: Path) -> list[Block]:
    """Returns the fenced blocks, then the indented ones."""
    text = path.read_text()
    indented = [re.sub(r"(?m)^ {4}", "", m[1]) for m in _INDENTED.finditer(_FENCED.sub("", text))]
    return [Block(m[1], m[2]) for m in _FENCED.finditer(text)] + [Block("", block) for block in indented]


def spans(path: Path) -> list[str]:
    """Returns the code within lines, outside of blocks."""
    text = re.sub(r"(?m)^ {4}.*$", "", _FENCED.sub("", path.read_text()))
    return list(dict.fromkeys(re.findall(r"`([^`\n]+)`", text)))


def commands(path: Path) -> Iterator[Command]:
    """Yields every line of the indented blocks that are no drawing or printed table: such a block holds commands."""
    for block in blocks(path):
        if not block.language and not _DRAWING.search(block.text):
            yield from _commands(block.text)


def _commands(text: str) -> Iterator[Command]:
    heading = ""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        code, _, comment = re.sub(r"(^|\s)# ?", "\0", line, count=1).partition("\0")
        if code.strip():
            yield Command(code.strip(), f"{heading} {comment}")
        else:
            heading = f"{heading} {comment}"


def section(path: Path, name: str) -> str:
    """Returns a section without its heading."""
    return path.read_text().partition(f"## {name}\n")[2].partition("\n## ")[0]


def example(path: Path, name: str) -> str:
    """Returns the one fenced block of a section."""
    (found,) = _FENCED.findall(section(path, name))
    return str(found[1])
