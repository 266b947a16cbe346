"""`trace-ray check`: what a stranger's preference files hold and how they are understood, without a cluster."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from trace_ray.cli.options import parted
from trace_ray.config.check import config_problems
from trace_ray.config.load import read_config
from trace_ray.corpus.check import CorpusCheck, FileCheck, check_corpus, refusal
from trace_ray.corpus.refused import many_refused, refused_share
from trace_ray.corpus.sources import corpus_sources
from trace_ray.errors import UserError
from trace_ray.runtime.progress import warn

_SHOWN_CHARACTERS = 160


def check(
    files: Annotated[
        list[str] | None, typer.Argument(help="as in corpus.paths, which they replace; also key.path=value")
    ] = None,
    config: Annotated[
        list[Path] | None, typer.Option("-c", "--config", help="yaml file with the corpus' settings")
    ] = None,
    test: Annotated[list[str] | None, typer.Option("--test", help="held-out files, as in corpus.test_paths")] = None,
    rows: Annotated[int, typer.Option("--rows", min=0, help="rows read of each file; 0 = all")] = 20_000,
    as_json: Annotated[bool, typer.Option("--json", help="for machines: one JSON document on standard output")] = False,
) -> None:
    """What preference files hold: kind, columns, format, the first row as understood, refusals, duplicates, overlap."""
    named, overrides = parted(files or [])
    paths = tuple(named)
    loaded = read_config(config or [], overrides)
    for problem in config_problems(loaded):  # the rest of a configuration need not be there yet
        if problem.where.startswith(("corpus", "storage")):
            raise problem
    corpus = replace(loaded.corpus, paths=paths, test_paths=()) if paths else loaded.corpus
    corpus = replace(corpus, test_paths=tuple(test)) if test else corpus
    if not corpus.paths:
        raise UserError("FILES", "none", "name files, or a configuration with corpus.paths")
    found = check_corpus(corpus_sources(corpus, loaded.storage), corpus, rows)
    if as_json:
        print(json.dumps(asdict(found), indent=1, ensure_ascii=False))
    else:
        for line in _lines(found):
            print(line)
    _tell(found)


def _tell(found: CorpusCheck) -> None:
    """Warns where much is refused; ends with 2 where a file gives nothing."""
    useless = [file for file in found.files if not file.pairs]
    for file in found.files:
        refused = {reason: tally.rows for reason, tally in file.rejects.items()}
        if file.pairs and many_refused(refused, file.rows):
            warn(f"{file.name}: {refused_share(refused, file.rows)}")
    for file in useless:
        print(f"trace-ray: {file.name}: {_shown(refusal(file, file.rows if file.whole else 0), 2000)}", file=sys.stderr)
    if useless:
        raise typer.Exit(2)


def _lines(found: CorpusCheck) -> Iterator[str]:
    for file in found.files:
        yield from _file_lines(file)
    yield (
        f"together: {found.pairs:,} pairs, {found.held_out:,} held out; {found.duplicates:,} duplicates; "
        f"{found.in_both:,} training pairs whose prompt is held out too"
    )


def _file_lines(file: FileCheck) -> Iterator[str]:
    yield f"{file.name} ({file.split})"
    if file.problem:
        yield f"  cannot be read: {_shown(file.problem, 2000)}"
        return
    read = f"{file.rows:,} rows" if file.whole else f"the first {file.rows:,} rows"
    yield f"  {file.kind}; {read}: {file.pairs:,} pairs, {sum(tally.rows for tally in file.rejects.values()):,} refused"
    yield f"  columns: {_shown(', '.join(file.columns), 2000)}"
    yield f"  format: {_formats(file)}"
    if file.first:
        yield f"  row {file.first.line} is read as"
        turns: list[tuple[str, Any]] = [(turn["role"], turn["content"]) for turn in file.first.prompt]
        for name, text in [*turns, ("chosen", file.first.chosen), ("rejected", file.first.rejected)]:
            yield f"    {_shown(name, 20)}: {_shown(str(text), _SHOWN_CHARACTERS)}"
    for reason, tally in file.rejects.items():
        yield f"  refused as {reason}: {tally.rows:,}, the first in row {tally.line}: {_shown(tally.detail, _SHOWN_CHARACTERS)}"


def _formats(file: FileCheck) -> str:
    """One format by its name, several with their rows; said of the first rows where no more were looked at."""
    looked = sum(file.formats.values())
    if len(file.formats) == 1:
        told = next(iter(file.formats)) or "none"
    else:
        told = ", ".join(f"{name or 'none'} {number:,}" for name, number in file.formats.items())
    return f"{told} (of the first {looked:,} rows)" if looked < file.rows else told


def _shown(text: str, limit: int) -> str:
    """The text on one line, cut; what would steer a terminal is spelt out."""
    cut = text if len(text) <= limit else f"{text[:limit]} ... ({len(text):,} characters)"
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in cut)
