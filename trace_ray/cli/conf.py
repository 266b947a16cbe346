"""`trace-ray conf`: the shipped configuration files, by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from trace_ray.config.reference import YAML
from trace_ray.config.sources import conf_folder, shipped_names
from trace_ray.errors import UserError, nearest

conf_app = typer.Typer(no_args_is_help=True, help="The shipped configuration files: what -c takes by name.")

REFERENCE = YAML.removesuffix(".yaml")
Name = Annotated[
    str,
    typer.Argument(
        help="as the list has it, such as models/llama-3.1-8b; reference = every setting",
        autocompletion=lambda incomplete: [name for name in names() if name.startswith(incomplete)],
    ),
]


def names() -> list[str]:
    """Returns the names that ``show`` and ``copy`` take: the shipped files and the reference."""
    return [REFERENCE, *shipped_names()]


@conf_app.command(name="list", epilog="Example: trace-ray conf list")
def list_names() -> None:
    """The names, one a line, with the first line of what each says of itself."""
    width = max(map(len, names()))
    for name in names():
        first = _file(name).read_text(encoding="utf-8").partition("\n")[0]
        print(f"{name:{width}}  {first.removeprefix('# ') if first.startswith('#') else ''}".rstrip())


@conf_app.command(epilog="Example: trace-ray conf show models/llama-3.1-8b")
def show(name: Name) -> None:
    """One file, as it is shipped."""
    print(_file(name).read_text(encoding="utf-8"), end="")


@conf_app.command(epilog="Example: trace-ray conf copy examples/demo mine.yaml")
def copy(
    name: Name, file: Annotated[Path | None, typer.Argument(help="where to; default: its own name, here")] = None
) -> None:
    """Copies one file, to be changed and given with -c; what it includes is still found by name."""
    source = _file(name)
    target = file or Path(source.name)
    if target.exists():
        raise UserError("conf copy", target, "is there already; name another file")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(_by_name(source.read_text(encoding="utf-8"), source.parent.name), encoding="utf-8")
    print(f"{target}: a copy of {name}")


def _by_name(text: str, folder: str) -> str:
    """Returns a shipped file whose includes stand by their shipped names: ../methods/trace.yaml is nowhere beside a copy."""

    def shipped(line: re.Match[str]) -> str:
        return re.sub(
            r"(\.\./)?([\w./-]+)\.yaml", lambda match: match[2] if match[1] else f"{folder}/{match[2]}", line[0]
        )

    return re.sub(r"(?m)^include: \[.*?\]", shipped, text)


def _file(name: str) -> Path:
    stem = name.removeprefix("conf/").removesuffix(".yaml")
    if stem not in names():
        raise UserError("conf", name, f"no shipped file of that name{nearest(stem, names())}; see trace-ray conf list")
    return conf_folder() / f"{stem}.yaml"
