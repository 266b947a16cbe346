"""The house as its source shows it: `python -m tests.house [FOLDER]` prints wings, arrows, circles and what is large.

FOLDER is a package, by default trace_ray beside the tests; another commit's shows how it was. Imports inside functions are
arrows too. tests/test_import.py holds the house to what is printed here.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

FUNCTION_LINES, FILE_LINES = 40, 250
"""More is a large room: it is listed."""

APART: tuple[str, ...] = ("objective.losses",)
"""Rooms inside a wing that count as wings of their own, as "wing.room": what lower floors read of a higher one."""

Arrows = Mapping[str, AbstractSet[str]]


def modules(package: Path) -> dict[str, Path]:
    """Returns module's dotted name below the package -> its file; the package's own __init__ and the shim are left out."""
    found = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name and "shim" not in parts:
            found[name] = file
    return found


def imported(file: Path) -> Iterator[str]:
    """Yields the dotted names of all that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrows(package: Path) -> dict[str, set[str]]:
    """Returns each module -> the modules of the same package that it imports."""
    known = modules(package)
    found: dict[str, set[str]] = {name: set() for name in known}
    for name, file in known.items():
        for dotted in imported(file):
            top, _, rest = dotted.partition(".")
            if top == package.name:
                inner = rest if rest in known else rest.rpartition(".")[0]
                found[name] |= {inner} & known.keys() - {name}
    return found


def wing(module: str) -> str:
    """Returns the folder at the root that a module stands in; a module at the root is a wing of its own."""
    apart = (room for room in APART if f"{module}.".startswith(f"{room}."))
    return next(apart, module.partition(".")[0])


def wings(between: Arrows) -> dict[str, set[str]]:
    """Returns each wing -> the wings that it imports."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, others in between.items():
        found[wing(name)] |= {wing(other) for other in others} - {wing(name)}
    return dict(found)


def circle(between: Arrows) -> list[str]:
    """Returns one circle of imports, first name repeated at its end, or nothing."""
    try:
        TopologicalSorter(between).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def floors(between: Arrows) -> list[list[str]]:
    """Returns the names from the ground up: each imports lower floors alone. A circle raises CycleError."""
    sorter, found = TopologicalSorter(between), []
    sorter.prepare()
    while sorter.is_active():
        ready = sorter.get_ready()
        found.append(sorted(ready))
        sorter.done(*ready)
    return found


def at_root(package: Path) -> list[str]:
    """Returns the modules that stand in no wing."""
    return [name for name, file in modules(package).items() if file.parent == package]


def long_files(package: Path) -> dict[str, int]:
    """Returns file -> lines, where they are more than FILE_LINES."""
    lines = {
        file.relative_to(package).as_posix(): len(file.read_text(encoding="utf-8").splitlines())
        for file in sorted(package.rglob("*.py"))
    }
    return {name: count for name, count in lines.items() if count > FILE_LINES}


def long_functions(package: Path) -> dict[str, int]:
    """Returns file:function -> lines, where they are more than FUNCTION_LINES."""
    found = {}
    for file in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    found[f"{file.relative_to(package).as_posix()}:{node.name}"] = lines
    return found


def main(package: Path) -> None:
    between = arrows(package)
    inside = {wing(name) for name, file in modules(package).items() if file.parent != package}
    rooms = wings(between)
    loose = at_root(package)
    print(f"{len(between)} modules in {len(inside)} wings and {len(loose)} at the root: {' '.join(loose)}")
    print(f"{sum(map(len, between.values()))} arrows between modules, {sum(map(len, rooms.values()))} between wings")
    for what, graph in (("modules", between), ("wings", rooms)):
        print(f"a circle of {what}: {' -> '.join(circle(graph)) or 'none'}")
    if not circle(rooms):
        for number, names in enumerate(floors(rooms)):
            print(f"floor {number}: {' '.join(names)}")
    for name in sorted(rooms):
        print(f"  {name} -> {' '.join(sorted(rooms[name])) or '-'}")
    for what, found in (("files", long_files(package)), ("functions", long_functions(package))):
        limit = FILE_LINES if what == "files" else FUNCTION_LINES
        print(f"{len(found)} {what} over {limit} lines: {', '.join(f'{k} {v}' for k, v in found.items()) or '-'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "trace_ray"))
