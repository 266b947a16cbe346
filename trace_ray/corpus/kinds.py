"""What kind of file somebody else wrote, told by its first bytes; its name decides only what bytes cannot."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum

MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"\xfd7zXZ\x00": "xz",
}
"""How compressed data begins, and what undoes it."""

_ENDS = (".gz", ".bz2", ".zst", ".xz", ".lz4")
_COLUMNAR = {".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow"}
_DELIMITED = (".csv", ".tsv")

SUFFIXES = (
    *_COLUMNAR,
    *(f".{kind}{end}" for kind in ("jsonl", "ndjson", "json", "csv", "tsv") for end in ("", *_ENDS)),
)
"""What a folder is searched for, in any case; a file that is named itself may be called anything."""

READ = "JSON lines, a JSON array, CSV with a header, parquet or Arrow, and text also as .gz, .bz2, .zst, .lz4 or .xz"

_FOREIGN = {
    b"PK\x03\x04": "a zip archive: unpack it",
    b"version https://git-lfs": "a Git LFS pointer, not the data itself: fetch it with `git lfs pull`",
    b"SQLite format 3": "an SQLite database: export its table",
    b"\x89HDF": "HDF5: export it",
    b"%PDF": "a PDF",
    b"\x80\x04": "a Python pickle: write it as JSON lines",
}


class Form(StrEnum):
    """How rows lie in a file."""

    LINES = "JSON lines"
    ARRAY = "JSON array"
    OBJECTS = "JSON objects over several lines"
    DELIMITED = "CSV"
    PARQUET = "parquet"
    ARROW = "Arrow"
    TEXT = "text"
    FOREIGN = "something else"


@dataclass(frozen=True)
class FileKind:
    r"""One file's kind.

    Args:
        form: how rows lie in it; ``TEXT``: lines of text, ``FOREIGN``: in no way that is known.
        compression: a value of MAGIC, or empty.
        encoding: of text, a codec's name; ``utf-8-sig`` has a byte-order mark.
        line_end: what ends a line, ``\r`` where nothing else does.
        delimiter: between a CSV's fields.
        problem: why no row of it can be read, and what to do; empty where rows can.
    """

    form: Form
    compression: str = ""
    encoding: str = "utf-8"
    line_end: str = "\n"
    delimiter: str = ","
    problem: str = ""

    def __str__(self) -> str:
        form = "TSV" if self.form is Form.DELIMITED and self.delimiter == "\t" else self.form.value
        encoding = "" if self.encoding == "utf-8" else f"{self.encoding.upper().removesuffix('-SIG')}"
        mark = " with a byte-order mark" if self.encoding == "utf-8-sig" else ""
        ends = "lines end with CR" if self.line_end == "\r" else ""
        return ", ".join(piece for piece in (form, self.compression, encoding + mark, ends) if piece)


def compression_of(head: bytes) -> str:
    """Returns how data that begins so is compressed, empty for not at all."""
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), "")


def columnar_form(head: bytes, name: str) -> Form | None:
    """Returns the columnar form of a file, None where it is none; only a beginning that says nothing leaves it to the name."""
    if head.startswith(b"PAR1"):
        return Form.PARQUET
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return Form.ARROW
    named = next((form for end, form in _COLUMNAR.items() if name.lower().endswith(end)), "")
    if not named or head.lstrip()[:1] in (b"{", b"[", b"<") or head.startswith(tuple(_FOREIGN)):
        return None
    return Form.PARQUET if named == "parquet" else Form.ARROW


def text_kind(sample: bytes, name: str, compression: str) -> FileKind:
    """Returns the kind of a file of text, from its beginning as it is decompressed.

    >>> str(text_kind(b'[{"prompt": "p"}]', "x.json", "gzip"))
    'JSON array, gzip'
    >>> text_kind(b"<html>", "x.jsonl", "").problem
    'a web page or XML, not data: look at how it was fetched'
    """
    encoding = json.detect_encoding(sample) if len(sample) > 1 else "utf-8"
    text = sample.decode(encoding, "replace").removeprefix("\ufeff")
    ends = "\r" if "\r" in text.strip() and "\n" not in text else "\n"
    lines = [line for line in text.split(ends) if line and not line.isspace()]
    form = _form(lines, name)
    delimiter = _delimiter(lines[0], name) if form is Form.DELIMITED else ","
    problem = _foreign(sample, text) or (_undecodable(lines) if form is Form.TEXT else "")
    form = Form.FOREIGN if problem else form
    problem = problem or (_no_rows(lines) if form is Form.TEXT else "")
    return FileKind(form, compression, encoding, ends, delimiter, problem)


def _form(lines: list[str], name: str) -> Form:
    if not lines:
        return Form.LINES
    first = lines[0].lstrip()[0]
    if first == "[":
        return Form.LINES if len(lines) > 1 and _is_json(lines[0]) else Form.ARRAY
    if first == "{":
        return Form.OBJECTS if lines[0].strip() == "{" else Form.LINES
    if _named(name, ".csv", ".tsv"):
        return Form.DELIMITED
    return Form.LINES if any(line.lstrip().startswith("{") for line in lines) else Form.TEXT


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _named(name: str, *ends: str) -> bool:
    bare, _, end = name.lower().rpartition(".")
    return (bare if f".{end}" in _ENDS else name.lower()).endswith(ends)


def _delimiter(header: str, name: str) -> str:
    """Where commas are decimal, spreadsheets write semicolons; a column's name holds neither."""
    return "\t" if _named(name, ".tsv") else max(",;\t", key=header.count)


def _foreign(sample: bytes, text: str) -> str:
    for magic, said in _FOREIGN.items():
        if sample.startswith(magic):
            return said
    if sample[257:262] == b"ustar":
        return "a tar archive: unpack it"
    if compression_of(sample):
        return "compressed twice: unpack it once"
    if columnar_form(sample, ""):
        return "parquet or Arrow, compressed as a whole: unpack it"
    return "a web page or XML, not data: look at how it was fetched" if text.lstrip().startswith("<") else ""


def _undecodable(lines: list[str]) -> str:
    broken = any(sign in line for line in lines for sign in "\0\ufffd")
    return f"neither text in UTF-8 nor a kind of file that is known: give {READ}" if broken else ""


def _no_rows(lines: list[str]) -> str:
    names = re.split(r"[,;\t]", lines[0].strip())
    if len(names) > 1 and all(re.fullmatch(r'"?[\w .-]+"?', name) for name in names):
        return f"it begins like a CSV's header ({', '.join(names[:4])}): call the file .csv or .tsv"
    return f"text that is no rows: give {READ}"
