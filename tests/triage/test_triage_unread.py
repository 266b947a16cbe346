"""A corpus of which nothing can be read is told in one line; many refused rows, and leaks, are told on the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trace_ray.config import CorpusConfig, StorageConfig
from trace_ray.corpus.read import Source
from trace_ray.corpus.runs import read_group
from trace_ray.corpus.units import SourceGroup, Unit
from trace_ray.errors import UserError
from trace_ray.storage.location import locate
from trace_ray.triage.unread import refuse_unread, tell_refused

GOOD = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
BAD = {"ask": "Why?", "good": "So.", "bad": "No."}
SETTINGS = CorpusConfig(paths=("train",), test_paths=("test",))


def refuse(folder: Path, *files: tuple[str, list[dict[str, Any]]]) -> None:
    """Reads files (split, rows) as triage does, each a group of its own."""
    groups = []
    for i, (split, rows) in enumerate(files):
        (folder / f"{i}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = Source(locate(str(folder / f"{i}.jsonl"), StorageConfig()), i, split)
        groups.append(SourceGroup.of(i, [Unit(i)], {i: source}))
    out, rejects = (locate(str(folder / name), StorageConfig()) for name in ("runs", "rejects"))
    tallies = {group.name: read_group(group, SETTINGS, 2, 1 << 20, out, rejects) for group in groups}
    refuse_unread(groups, tallies, SETTINGS)


def test_where_every_row_is_refused_the_line_says_what_was_seen_and_what_would_work(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        refuse(tmp_path, ("train", [BAD]), ("train", [BAD] * 4), ("test", [GOOD]))
    said = str(caught.value)
    assert said.startswith(
        "corpus.paths: ['train']: all 5 rows are refused, of the first 4 rows 4 as missing_field (row 1: "
    )
    assert "columns seen: ask, good, bad; wanted: chosen and rejected with a prompt" in said
    assert said.endswith("; try corpus.columns={prompt: ask, chosen: good, rejected: bad}")


def test_so_it_is_for_held_out_files_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"corpus\.test_paths: \['test'\]: all 2 rows are refused, 2 as missing_field"):
        refuse(tmp_path, ("train", [GOOD, BAD]), ("test", [BAD] * 2))


def test_one_pair_is_enough_to_go_on(tmp_path: Path) -> None:
    refuse(tmp_path, ("train", [BAD]), ("train", [BAD, GOOD]), ("test", [GOOD]))
    (tmp_path / "other").mkdir()
    refuse(tmp_path / "other", ("", [GOOD]))


@pytest.mark.parametrize(
    ("rejects", "rows", "said"),
    [
        ({"missing_field": 10}, 1000, ""),
        (
            {"missing_field": 9, "too_long": 2},
            1000,
            "triage: 11 of 1,000 rows are refused (1.1 %): missing_field 9, too_long 2;",
        ),
        ({"held_out_prompt": 1}, 1000, "triage: 1 training pairs are refused, since their prompts are held out"),
        ({"held_out_prompt": 20}, 1000, "triage: 20 of 1,000 rows are refused (2 %): held_out_prompt 20;"),
        ({}, 0, ""),
    ],
)
def test_refused_rows_are_told_where_they_are_many_or_leaks(
    rejects: dict[str, int], rows: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tell_refused(rejects, rows)
    told = " ".join(capsys.readouterr().err.split())
    assert told.startswith(said)
    assert bool(told) is bool(said)
