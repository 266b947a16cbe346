"""Every kind of file that people publish gives its rows, whatever it is called; what holds none is told in one line."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trace_ray.config import StorageConfig
from trace_ray.corpus.files import count_rows, file_kind, raw_rows
from trace_ray.corpus.read import row_values
from trace_ray.corpus.rows import RejectedRowError
from trace_ray.errors import UserError
from trace_ray.storage.location import Location, locate

SHARED = Path(__file__).resolve().parents[3] / "shared" / "cases"
ROWS = [
    {"prompt": f"Why {i}?", "chosen": f'So {i}, é: [{{"not, a row"}}]\\\nnext line', "rejected": "\u2028 \U0001f600 no"}
    for i in range(3)
]


def place(path: Path, data: bytes) -> Location:
    path.write_bytes(data)
    return locate(str(path), StorageConfig())


def read(file: Location) -> list[Any]:
    """Returns what each row holds, or the reason why it holds nothing."""
    found: list[Any] = []
    for raw in raw_rows(file):
        try:
            found.append(row_values(raw))
        except RejectedRowError as error:
            found.append(error.reason.value)
    assert count_rows(file) == len(found)
    return found


def lines(end: str = "\n") -> str:
    return end.join(json.dumps(row, ensure_ascii=False) for row in ROWS) + end


def delimited(delimiter: str) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(ROWS[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return out.getvalue()


def columnar(name: str) -> bytes:
    sink, table = pa.BufferOutputStream(), pa.Table.from_pylist(ROWS)
    if name == "parquet":
        pq.write_table(table, sink)
    else:
        make = pa.ipc.new_file if name == "file" else pa.ipc.new_stream
        with make(sink, table.schema) as writer:
            writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def pressed(data: bytes, codec: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(data)
    return bytes(sink.getvalue().to_pybytes())


LINES = lines().encode()
ARRAY = json.dumps(ROWS).encode()
PRETTY = json.dumps(ROWS, indent=2, ensure_ascii=False).encode()
KINDS: dict[str, tuple[str, bytes, str]] = {
    "lines": ("x.jsonl", LINES, "JSON lines"),
    "no name": ("x", LINES, "JSON lines"),
    "lines called csv": ("x.csv", LINES, "JSON lines"),
    "lines called parquet": ("x.parquet", LINES, "JSON lines"),
    "no end of the last line": ("x.jsonl", LINES.rstrip(), "JSON lines"),
    "CRLF": ("x.jsonl", lines("\r\n").encode(), "JSON lines"),
    "CR": ("x.jsonl", lines("\r").encode(), "JSON lines, lines end with CR"),
    "CR, no last end": ("x.jsonl", lines("\r").encode().rstrip(), "JSON lines, lines end with CR"),
    "blank lines": ("x.jsonl", b"\n \n" + LINES.replace(b"\n", b"\n\r\n"), "JSON lines"),
    "BOM": ("x.jsonl", lines().encode("utf-8-sig"), "JSON lines, UTF-8 with a byte-order mark"),
    "UTF-16": ("x.jsonl", lines().encode("utf-16"), "JSON lines, UTF-16"),
    "UTF-16-LE": ("x.jsonl", lines().encode("utf-16-le"), "JSON lines, UTF-16-LE"),
    "UTF-16-BE": ("x.jsonl", lines().encode("utf-16-be"), "JSON lines, UTF-16-BE"),
    "UTF-32": ("x.jsonl", lines().encode("utf-32"), "JSON lines, UTF-32"),
    "array": ("x.json", ARRAY, "JSON array"),
    "array called jsonl": ("x.jsonl", ARRAY, "JSON array"),
    "array, pretty": ("x.json", PRETTY, "JSON array"),
    "array, a comma too many": ("x.json", ARRAY[:-1] + b", ]\n", "JSON array"),
    "array, BOM": ("x.json", b"\xef\xbb\xbf" + PRETTY, "JSON array, UTF-8 with a byte-order mark"),
    "array, UTF-16": ("x.json", PRETTY.decode().encode("utf-16"), "JSON array, UTF-16"),
    "objects, pretty": (
        "x.json",
        "\n".join(json.dumps(row, indent=1) for row in ROWS).encode(),
        "JSON objects over several lines",
    ),
    "CSV": ("x.csv", delimited(",").encode(), "CSV"),
    "CSV, BOM": ("x.CSV", delimited(",").encode("utf-8-sig"), "CSV, UTF-8 with a byte-order mark"),
    "CSV, semicolons": ("x.csv", delimited(";").encode(), "CSV"),
    "CSV, UTF-16": ("x.csv", delimited("\t").encode("utf-16"), "TSV, UTF-16"),
    "TSV": ("x.tsv", delimited("\t").encode(), "TSV"),
    "gzip": ("x.jsonl.gz", gzip.compress(LINES), "JSON lines, gzip"),
    "gzip called jsonl": ("x.jsonl", gzip.compress(LINES), "JSON lines, gzip"),
    "plain called gz": ("x.jsonl.gz", LINES, "JSON lines"),
    "gzip of two members": ("x.jsonl.gz", gzip.compress(LINES[:50]) + gzip.compress(LINES[50:]), "JSON lines, gzip"),
    "bz2": ("x.JSONL.BZ2", bz2.compress(LINES), "JSON lines, bz2"),
    "bz2 of two streams": ("x", bz2.compress(LINES[:50]) + bz2.compress(LINES[50:]), "JSON lines, bz2"),
    "xz": ("x.jsonl.xz", lzma.compress(LINES), "JSON lines, xz"),
    "xz of two streams": ("x.jsonl", lzma.compress(LINES[:50]) + lzma.compress(LINES[50:]), "JSON lines, xz"),
    "zstd": ("x.jsonl.zst", pressed(LINES, "zstd"), "JSON lines, zstd"),
    "zstd of two frames": ("x", pressed(LINES[:50], "zstd") + pressed(LINES[50:], "zstd"), "JSON lines, zstd"),
    "lz4": ("x.jsonl.lz4", pressed(LINES, "lz4"), "JSON lines, lz4"),
    "array, gzip": ("x.json.gz", gzip.compress(PRETTY), "JSON array, gzip"),
    "CSV, xz": ("x.csv.xz", lzma.compress(delimited(",").encode()), "CSV, xz"),
    "parquet": ("x.parquet", columnar("parquet"), "parquet"),
    "parquet called jsonl": ("x.jsonl", columnar("parquet"), "parquet"),
    "Arrow file": ("x.arrow", columnar("file"), "Arrow"),
    "Arrow stream": ("x.ARROW", columnar("stream"), "Arrow"),
    "Arrow called parquet": ("x.parquet", columnar("stream"), "Arrow"),
}


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_file_gives_its_rows(name: str, tmp_path: Path) -> None:
    called, data, kind = KINDS[name]
    file = place(tmp_path / called, data)
    assert str(file_kind(file)) == kind
    assert read(file) == ROWS


@pytest.mark.parametrize(
    ("called", "data"), [("x.jsonl", b""), ("x.jsonl", b"\n \n"), ("x.json", b"[ ]"), ("x.csv", b"a,b\n")]
)
def test_a_file_without_rows_has_none(called: str, data: bytes, tmp_path: Path) -> None:
    assert read(place(tmp_path / called, data)) == []


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("x.jsonl", LINES)
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        member = tarfile.TarInfo("x.jsonl")
        member.size = len(LINES)
        archive.addfile(member, io.BytesIO(LINES))
    return out.getvalue()


FOREIGN: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "zip": ("x.jsonl", zipped, "a zip archive: unpack it"),
    "tar": ("x.jsonl.gz", tarred, "a tar archive: unpack it"),
    "LFS": ("x.parquet", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "web page": ("x.jsonl", lambda: b"\n<!DOCTYPE html>\n<html>{\n{", "a web page or XML"),
    "text": ("x.jsonl", lambda: b"Why?\nSo.\n", "text that is no rows: give JSON lines"),
    "CSV by no name": (
        "x.txt",
        lambda: delimited(",").encode(),
        "begins like a CSV's header (prompt, chosen, rejected)",
    ),
    "CSV as lines": ("x.jsonl", lambda: delimited("\t").encode(), "call the file .csv or .tsv"),
    "binary": ("x.jsonl", lambda: bytes(range(5, 250)) * 3, "neither text in UTF-8 nor a kind of file that is known"),
    "twice": ("x.jsonl.gz", lambda: gzip.compress(bz2.compress(LINES)), "compressed twice"),
    "parquet.gz": ("x.parquet.gz", lambda: gzip.compress(columnar("parquet")), "compressed as a whole: unpack it"),
    "texts": ("x.jsonl", lambda: b'"Why?"\n"So."\n', "text that is no rows"),
    "array, cut": ("x.json", lambda: PRETTY[:-9], "the array is not closed after value 2"),
    "array and more": ("x.json", lambda: PRETTY + b"\n{}", "something follows after value 3"),
    "object, cut": ("x.json", lambda: b'{\n "a": 1\n}\n{\n "a"', "an object is not closed after value 1"),
    "CSV, quote open": ("x.csv", lambda: b'a,b\n1,2\n"3,4\n5,6\n7,8\n', "lines 3 to 5: unexpected end of data"),
    "CSV, twice": ("x.csv", lambda: b"prompt,chosen,prompt\n1,2,3\n", "the header names prompt twice"),
    "xz, cut": ("x.jsonl.xz", lambda: lzma.compress(LINES * 99)[:-9], "cannot be read to its end"),
    "UTF-16, cut": ("x.jsonl", lambda: lines().encode("utf-16")[:-1], "cannot be read to its end"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_the_wrong_kind_is_one_line(name: str, tmp_path: Path) -> None:
    called, make, said = FOREIGN[name]
    file = place(tmp_path / called, make())
    for reading in (count_rows, lambda source: list(raw_rows(source))):
        with pytest.raises(UserError) as caught:
            reading(file)
        assert str(caught.value).startswith(f"corpus.paths: {tmp_path / called}: ")
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


BROKEN: dict[str, tuple[str, bytes, list[str]]] = {
    "array": ("x.json", b'[{"a": 1}, {"a": }, , [}, {"a": 2}]', ["broken_json"] * 3),
    "array, no UTF-8": ("x.json", b'[{"a": 1}, {"a": "\xff"}, {"a": 2}]', ["wrong_encoding"]),
    "lines": ("x.jsonl", b'{"a": 1}\n{"a"\n\xff\n{"a": 2}\n', ["broken_json", "wrong_encoding"]),
    "lines, the first": ("x.jsonl", b'nonsense\n[1\n{"a": 1}\n{"a": 2}\n', ["broken_json"] * 2),
    "lines, half a pair in UTF-16": (
        "x.jsonl",
        '{"a": 1}\n{"a": "\ud800"}\n{"a": 2}\n'.encode("utf-16-le", "surrogatepass"),
        ["wrong_encoding"],
    ),
    "CSV": ("x.csv", b'a\n1\n"3" x\n1,2\n2\n', ["broken_csv"] * 2),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_row_costs_only_itself(name: str, tmp_path: Path) -> None:
    called, data, reasons = BROKEN[name]
    found = read(place(tmp_path / called, data))
    good = [row["a"] for row in found if isinstance(row, dict)]
    assert [int(value) for value in good] == [1, 2]
    assert [row for row in found if isinstance(row, str)] == reasons


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/cases")
@pytest.mark.parametrize(
    "case",
    [
        "20_bom.jsonl",
        "21_array.json",
        "21b_array_pretty.json",
        "22_pairs.csv",
        "23d_pku.jsonl.xz",
        "23f_gz_named.jsonl",
    ],
)
def test_the_shared_cases_give_three_pairs_each(case: str) -> None:
    found = read(locate(str(SHARED / "corpora" / case), StorageConfig()))
    more = "\nsecond line" if case == "22_pairs.csv" else ""
    assert [(row["prompt"], row["chosen"].removesuffix(more)) for row in found] == [
        (f"Why {i}?", f"So {i}, é.") for i in range(3)
    ]
