"""What somebody else's files hold and how they are understood: read as triage reads them, told instead of judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from trace_ray.config import CorpusConfig
from trace_ray.corpus.files import raw_rows, readable_kind
from trace_ray.corpus.formats.columns import renamed
from trace_ray.corpus.mapping import working_columns
from trace_ray.corpus.read import Source, read_sources, row_values
from trace_ray.corpus.rows import RejectedRowError, detect_format
from trace_ray.errors import UserError
from trace_ray.pairs import Message, RejectReason, Split, line_of

SAMPLED_ROWS = 1000
"""Rows whose columns and formats are looked at; the first of a file are like the others, or their rejects say so."""

_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class Refused:
    """Rows refused for one reason: how many, and the line (from 1) and detail of the first."""

    rows: int
    line: int
    detail: str


@dataclass(frozen=True)
class FirstPair:
    """The first row that is a pair, as it is understood."""

    line: int
    prompt: list[Message]
    chosen: str
    rejected: str


@dataclass(frozen=True)
class FileCheck:
    """One file.

    Args:
        split: ``train`` or ``test``; kind: as ``FileKind`` says it; problem: why no row can be read, empty where rows can.
        rows: read; whole: whether these are all.
        columns: of the first SAMPLED_ROWS rows, in order; formats: {name: rows} of the same, empty name = none told.
        rejects: by reason, most first.
        works: ``corpus.columns`` under which rows are pairs, looked for where none is.
    """

    name: str
    split: str
    kind: str = ""
    problem: str = ""
    rows: int = 0
    whole: bool = True
    pairs: int = 0
    columns: list[str] = field(default_factory=list)
    formats: dict[str, int] = field(default_factory=dict)
    rejects: dict[str, Refused] = field(default_factory=dict)
    first: FirstPair | None = None
    works: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CorpusCheck:
    """All files together.

    Args:
        pairs: that could be read, repeated ones included; held_out: of these, pairs of the test split.
        duplicates: pairs that stand there before; in_both: training pairs whose prompt is held out too.
    """

    files: list[FileCheck]
    pairs: int
    held_out: int
    duplicates: int
    in_both: int


def check_corpus(sources: Sequence[Source], config: CorpusConfig, rows: int) -> CorpusCheck:
    """Returns what the files hold, the first ``rows`` rows of each, 0 = all; of each pair two hashes are kept, to compare."""
    kept = _Seen()
    files = [_checked(source, config, rows, kept) for source in sources]
    return CorpusCheck(files, kept.pairs, kept.held_out, kept.duplicates, kept.in_both())


class _Seen:
    """Hashes of pairs, and of prompts by split."""

    def __init__(self) -> None:
        self.ids: set[int] = set()
        self.train: Counter[int] = Counter()
        self.test: set[int] = set()
        self.pairs = self.held_out = self.duplicates = 0

    def add(self, pair_id: str, prompt: Sequence[Message], split: str) -> None:
        number, asked = int(pair_id, 16), hash(tuple((turn["role"], turn["content"]) for turn in prompt))
        self.pairs += 1
        self.duplicates += number in self.ids
        self.ids.add(number)
        if split == Split.TEST:
            self.held_out += 1
            self.test.add(asked)
        else:
            self.train[asked] += 1

    def in_both(self) -> int:
        return sum(number for asked, number in self.train.items() if asked in self.test)


def _checked(source: Source, config: CorpusConfig, limit: int, seen: _Seen) -> FileCheck:
    name, split = source.place.uri, source.split or Split.TRAIN.value
    try:
        kind = str(readable_kind(source.place, "corpus.paths"))
        some = _first_rows(source)
        columns = list(dict.fromkeys(str(name) for row in some for name in row))
        formats = Counter(_format(row, config) for row in some)
        pairs = rows = 0
        first: FirstPair | None = None
        rejects: dict[str, Refused] = {}
        for chunk in read_sources([source], config, limit, _CHUNK_BYTES):
            rows += chunk.rows
            pairs += chunk.pairs.num_rows
            found = chunk.pairs.select(["row", "pair_id", "prompt", "chosen", "rejected", "split"])
            if first is None and found.num_rows:
                first = _first(found.slice(0, 1).to_pylist()[0])
            for pair_id, prompt, part in _columns(found, "pair_id", "prompt", "split"):
                seen.add(pair_id, prompt, part)
            for row, reason, detail in _columns(chunk.rejects, "row", "reason", "detail"):
                before = rejects.get(reason, Refused(0, line_of(row), detail))
                rejects[reason] = Refused(before.rows + 1, before.line, before.detail)
    except UserError as error:
        return FileCheck(name, split, problem=error.remedy)
    most = dict(sorted(rejects.items(), key=lambda found: -found[1].rows))
    return FileCheck(
        name=name,
        split=split,
        kind=kind,
        rows=rows,
        whole=not limit or rows < limit,
        pairs=pairs,
        columns=columns,
        formats=dict(formats.most_common()),
        rejects=most,
        first=first,
        works={} if pairs else working_columns(some, config),
    )


def _columns(table: Any, *names: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[name].to_pylist() for name in names), strict=True)


def _first(row: dict[str, Any]) -> FirstPair:
    return FirstPair(line_of(row["row"]), row["prompt"], row["chosen"], row["rejected"])


def _first_rows(source: Source) -> list[Mapping[str, Any]]:
    """The first SAMPLED_ROWS rows, those that hold columns."""
    found: list[Mapping[str, Any]] = []
    for raw in islice(raw_rows(source.place), SAMPLED_ROWS):
        try:
            row = row_values(raw)
        except RejectedRowError:
            continue
        if isinstance(row, dict):
            found.append(row)
    return found


def _format(row: Mapping[str, Any], config: CorpusConfig) -> str:
    """The format that a row's columns tell, once they are called as ``corpus.columns`` has it."""
    if config.format != "auto":
        return config.format
    try:
        return detect_format(renamed(row, config.columns))
    except RejectedRowError:
        return ""


def refusal(check: FileCheck, rows: int = 0) -> str:
    """Returns why none of a file's rows is a pair, and what to do: one line.

    Args:
        check: of at least its first rows.
        rows: how many are refused, all that there are; 0 = not known.
    """
    if check.problem or not check.rows:
        return check.problem or "the file holds no row"
    reason, most = next(iter(check.rejects.items()))
    said = f"all {rows:,} rows are refused" if rows else f"none of the first {check.rows:,} rows is a pair"
    of = f"of the first {check.rows:,} rows " if check.rows < rows else ""
    return (
        f"{said}, {of}{most.rows:,} as {reason} (row {most.line}: {' '.join(most.detail.split())}); columns seen: "
        f"{', '.join(check.columns[:12]) or 'none'}; wanted: chosen and rejected with a prompt, or those of a known format"
        f"{_remedy(check.works, reason)}"
    )


def _remedy(works: Mapping[str, str], reason: str) -> str:
    if works:
        return f"; try corpus.columns={{{', '.join(f'{name}: {path}' for name, path in works.items())}}}"
    return "; name them in corpus.columns" if reason == RejectReason.MISSING_FIELD else ""
