"""Streams corpus files into tables of pairs and of rejects; a broken line costs only itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, islice
from operator import itemgetter
from typing import Any

import pyarrow as pa

from trace_ray.config import CorpusConfig
from trace_ray.corpus.files import RawRow, raw_rows
from trace_ray.corpus.rows import RawPair, RejectedRowError, fit_length, parse_row
from trace_ray.errors import UserError
from trace_ray.pairs import LINES_PER_FILE, MESSAGES, PAIR_SCHEMA, REJECT_SCHEMA, ROWS_PER_FILE, RejectReason, Split
from trace_ray.storage.location import Location

SLOTS = 1 << 16
"""A prompt's slot is 16 bits of its hash: equal prompts share it, so all that compares pairs happens within a slot."""

SLOT_SCHEMA = pa.schema([*PAIR_SCHEMA, ("slot", pa.uint16())])

_DETAIL_CHARACTERS = 200
_REJECT_BYTES = 1024
_ROW_BYTES = 256  # beside its text
_as_json = json.encoder.encode_basestring  # a text as json.dumps writes it with ensure_ascii=False, ten times as fast
_raw_decode = json.JSONDecoder().raw_decode  # json.loads without its looks for blanks at both ends
# orjson would save 3 % of reading, for rows with NaN refused and integers beyond 64 bits rounded.
_TRAIN, _TEST = Split.TRAIN.value, Split.TEST.value


@dataclass(frozen=True)
class Source:
    """One file of the corpus.

    Args:
        place: where; index: its place in the corpus; split: ``test`` or ``train``; empty = decided by the holdout.
    """

    place: Location
    index: int
    split: str


NumberedRow = tuple[Source, int, RawRow]
"""A raw row with its file and its place there."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of the corpus: pairs in SLOT_SCHEMA and refused ones in REJECT_SCHEMA.

    Args:
        rows: read. Each is at least one pair or reject; a ranked set makes several, each numbered by itself.
    """

    pairs: pa.Table
    rejects: pa.Table
    rows: int

    @property
    def extra(self) -> int:
        """Pairs and rejects beyond one a row: rows + extra = pairs + rejects."""
        return int(self.pairs.num_rows + self.rejects.num_rows - self.rows)


def read_sources(sources: Sequence[Source], config: CorpusConfig, limit: int, chunk_bytes: int) -> Iterator[Chunk]:
    """Yields the rows of several files in order, in chunks that hold about ``chunk_bytes`` of text, prompts included.

    Args:
        limit: rows at most over all the files together; 0 = all.
    """
    rows = ((source, line, raw) for source in sources for line, raw in enumerate(raw_rows(source.place)))
    return read_numbered(islice(rows, limit or None), config, chunk_bytes)


def read_numbered(rows: Iterable[NumberedRow], config: CorpusConfig, chunk_bytes: int) -> Iterator[Chunk]:
    """Yields rows in chunks that hold about ``chunk_bytes`` of text, prompts included; at least one chunk.

    Args:
        rows: each with its source and its place in that file.
    """
    builder = _Builder()
    for source, line, raw in rows:
        if line >= LINES_PER_FILE:
            raise UserError("corpus.paths", source.place.uri, f"more than {LINES_PER_FILE} rows: split the file")
        builder.add(raw, source.index * ROWS_PER_FILE + line, source, config)
        if builder.size >= chunk_bytes:
            yield builder.chunk()
            builder = _Builder()
    yield builder.chunk()


@dataclass
class _Builder:
    """Collects columns; row dicts would cost several times as much."""

    size: int = 0
    rows: int = 0
    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in SLOT_SCHEMA.names})
    rejects: list[dict[str, Any]] = field(default_factory=list)

    def add(self, raw: RawRow, row: int, source: Source, config: CorpusConfig) -> None:
        self.rows += 1
        try:
            values = row_values(raw)
            pairs = parse_row(values, config)
        except RejectedRowError as error:
            self._refuse(error, row, source)
            return
        name = _source_name(values) or source.place.name
        for pair in pairs:
            try:
                fitted = fit_length(pair, config.max_chars, config.too_long)
                self._keep(fitted, row, name, source.split, config.holdout)
            except RejectedRowError as error:
                self._refuse(error, row, source)
            row += LINES_PER_FILE

    def _refuse(self, error: RejectedRowError, row: int, source: Source) -> None:
        detail = error.detail.encode("utf-8", "replace").decode()[:_DETAIL_CHARACTERS]
        facts = {"row": row, "source": source.place.name, "stage": "triage"}
        self.rejects.append(facts | {"reason": error.reason.value, "detail": detail})
        self.size += _REJECT_BYTES

    def _keep(self, pair: RawPair, row: int, name: str, split: str, holdout: float) -> None:
        pair_id, digest, size = identify(pair)
        self.size += size + _ROW_BYTES
        held_out = split == _TEST or (not split and int(digest[:13], 16) < holdout * 16**13)
        columns = self.columns
        columns["row"].append(row)
        columns["pair_id"].append(pair_id)
        columns["source"].append(name)
        columns["split"].append(_TEST if held_out else _TRAIN)
        columns["prompt"].append(pair.prompt)
        columns["chosen"].append(pair.chosen)
        columns["rejected"].append(pair.rejected)
        columns["slot"].append(_slot(digest))

    def chunk(self) -> Chunk:
        arrays = {name: _array(name, values) for name, values in self.columns.items()}
        rejects = pa.Table.from_pylist(self.rejects, schema=REJECT_SCHEMA)
        return Chunk(pa.table(arrays, schema=SLOT_SCHEMA), rejects, self.rows)


def identify(pair: RawPair) -> tuple[str, str, int]:
    """Returns (``pairs.pair_id``, the prompt's hash as ``pairs.hash_fraction`` with seed 0 takes it, bytes), encoding once.

    Raises: RejectedRowError for text that is no Unicode, such as a lone surrogate from a JSON escape.
    """
    turns = ", ".join([f"[{_as_json(turn['role'])}, {_as_json(turn['content'])}]" for turn in pair.prompt])
    turns = f"[{turns}]"
    text = f"[{turns}, {_as_json(pair.chosen)}, {_as_json(pair.rejected)}]"
    try:
        data = text.encode()
        return hashlib.sha256(data).hexdigest()[:32], hashlib.sha256(f"0:{turns}".encode()).hexdigest(), len(data)
    except UnicodeEncodeError as error:
        raise RejectedRowError(RejectReason.WRONG_ENCODING, str(error)) from None


def with_slots(pairs: pa.Table) -> pa.Table:
    """Returns pairs (PAIR_SCHEMA) that were read before in SLOT_SCHEMA."""
    rows = zip(*(pairs[name].to_pylist() for name in ("prompt", "chosen", "rejected")), strict=True)
    slots = [_slot(identify(RawPair(prompt=prompt, chosen=good, rejected=bad))[1]) for prompt, good, bad in rows]
    return pairs.append_column(SLOT_SCHEMA.field("slot"), pa.array(slots, pa.uint16()))


def _slot(digest: str) -> int:
    """A prompt's slot: 16 bits of its hash that its split does not depend on."""
    return int(digest[13:17], 16)


def _source_name(row: Any) -> str:
    named = row.get("source")
    return named.encode("utf-8", "replace").decode() if isinstance(named, str) else ""


def _array(name: str, values: list[Any]) -> pa.Array:
    if name != "prompt":
        return pa.array(values, SLOT_SCHEMA.field(name).type)
    turns = list(chain.from_iterable(values))
    offsets = list(accumulate(map(len, values), initial=0))
    texts = [pa.array(list(map(itemgetter(key), turns)), pa.string()) for key in ("role", "content")]
    flat = pa.StructArray.from_arrays(texts, fields=list(MESSAGES.value_type))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat, type=MESSAGES)


def row_values(raw: RawRow) -> Any:
    """Returns what a raw row holds: a mapping, if it is any use. Raises: RejectedRowError where it cannot be read."""
    if isinstance(raw, bytes):
        return _decoded(raw)
    if isinstance(raw, RejectedRowError):
        raise raw
    return raw


def _decoded(line: bytes) -> Any:
    try:
        text = line.decode("utf-8")
        if text[:1] == "{":
            value, end = _raw_decode(text)
            if end == len(text) or text[end:].isspace():
                return value
        return json.loads(text)
    except UnicodeDecodeError:
        raise RejectedRowError(RejectReason.WRONG_ENCODING, repr(line[:80])) from None
    except (ValueError, RecursionError):
        raise RejectedRowError(RejectReason.BROKEN_JSON, line[:80].decode("utf-8", "replace")) from None
