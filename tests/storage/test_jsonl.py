"""Files of lines that users bring."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trace_ray.config import StorageConfig
from trace_ray.errors import UserError
from trace_ray.storage.jsonl import read_jsonl, read_utf8
from trace_ray.storage.location import Location, locate


def place(path: Path, data: bytes) -> Location:
    path.write_bytes(data)
    return locate(str(path), StorageConfig())


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    """JSON allows these raw inside a string, and ``ensure_ascii=False`` writes them so."""
    rows = [{"prompt": f"one{mark}two"} for mark in "\u2028\u2029\u0085\u000b"] + [{"prompt": "last"}]
    text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows).replace("\\u000b", "\\u000b")
    found = list(read_jsonl(place(tmp_path / "a.jsonl", f"\ufeff{text}\r\n".encode()), "s", "r"))
    assert [line.row for line in found] == rows
    assert [line.where.rpartition(":")[2] for line in found] == ["1", "3", "5", "7", "9"]


@pytest.mark.parametrize("line", ["{broken", "[1]", "3", "null"])
def test_what_is_no_object_is_named_by_file_and_line(tmp_path: Path, line: str) -> None:
    file = place(tmp_path / "a.jsonl", f'{{"a": 1}}\n{line}\n'.encode())
    with pytest.raises(UserError, match=r"^the\.setting: .*a\.jsonl:2: .*do this"):
        list(read_jsonl(file, "the.setting", "do this"))


def test_a_file_in_another_encoding_is_said_to_be(tmp_path: Path) -> None:
    file = place(tmp_path / "excel.csv", "goal\nW\u00fcrde\n".encode("cp1252"))
    with pytest.raises(UserError, match=r"evaluate\.attacks\.prompts: .*excel\.csv: not UTF-8 at byte 6"):
        read_utf8(file, "evaluate.attacks.prompts")
