"""The corpus cut into units of reading: whatever the cut, each row once and with the number that it has in its file."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.in_process import triage_in_process
from trace_ray.config import CorpusConfig, StorageConfig, TriageConfig
from trace_ray.corpus import units as units_module
from trace_ray.corpus.read import Source
from trace_ray.corpus.runs import read_group
from trace_ray.corpus.units import SourceGroup, Unit, count_unit, counted, cut, grouped, limited, outline
from trace_ray.errors import UserError
from trace_ray.pairs import ROWS_PER_FILE
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate
from trace_ray.triage import reading
from trace_ray.triage.work import Work


def source(path: Path, index: int = 0, split: str = "") -> Source:
    return Source(locate(str(path), StorageConfig()), index, split)


def row(i: int, rng: random.Random) -> dict[str, str]:
    return {"prompt": f"q{i} é\u2028", "chosen": "a" * rng.randrange(1, 200), "rejected": f"b{i}"}


def lines(path: Path, rows: int, seed: int = 0) -> Path:
    """Rows of many lengths, blank lines between, no line end after the last."""
    rng = random.Random(seed)
    texts = [json.dumps(row(i, rng), ensure_ascii=False) for i in range(rows)]
    path.write_bytes("".join(text + rng.choice(["\n", "\n\n", "\r\n", "\n  \n"]) for text in texts).encode().rstrip())
    return path


def table(path: Path, rows: int, group: int) -> Path:
    rng = random.Random(rows)
    pq.write_table(pa.Table.from_pylist([row(i, rng) for i in range(rows)]), path, row_group_size=group)
    return path


def cut_up(sources: list[Source], piece: int, limit: int = 0) -> list[Unit]:
    """The units as triage makes them."""
    known = {file.index: file for file in sources}
    found = [unit for file in sources for unit in cut(file.index, outline(file), piece)]
    found = counted(found, lambda some: [count_unit(unit, known[unit.file]) for unit in some], bool(limit))
    return limited(found, known, limit)


def numbered(units: list[Unit], sources: list[Source]) -> list[tuple[int, Any]]:
    known = {file.index: file for file in sources}
    rows = [seen for unit in units for seen in unit.rows_of(known[unit.file])]
    return [(where.index * ROWS_PER_FILE + line, raw) for where, line, raw in rows]


@pytest.mark.parametrize("piece", [1, 7, 64, 300, 1000, 4000])
def test_ranges_of_lines_are_the_lines_whatever_the_cut(piece: int, tmp_path: Path) -> None:
    file = source(lines(tmp_path / "x.jsonl", 60, seed=piece), 3)
    units = cut_up([file], piece)
    assert len(units) > 1
    found = numbered(units, [file])
    assert [number - 3 * ROWS_PER_FILE for number, _ in found] == list(range(60))
    assert [json.loads(raw)["rejected"] for _, raw in found] == [f"b{i}" for i in range(60)]


def test_row_groups_are_counted_by_the_footer_and_read_apart(tmp_path: Path) -> None:
    file = source(table(tmp_path / "x.parquet", 100, 9), 2)
    whole = outline(file)
    units = cut_up([file], 2 * whole.sizes[0])
    assert len(units) > 4
    assert max(unit.size for unit in units) <= 2 * whole.sizes[0]
    assert sum(unit.rows for unit in units) == 100
    found = numbered(units, [file])
    assert [number - 2 * ROWS_PER_FILE for number, _ in found] == list(range(100))
    assert [raw["rejected"] for _, raw in found] == [f"b{i}" for i in range(100)]


@pytest.mark.parametrize("kind", ["jsonl.gz", "json", "csv", "utf16", "parquet"])
def test_what_cannot_be_cut_is_one_unit(kind: str, tmp_path: Path) -> None:
    rows, path = [row(i, random.Random(0)) for i in range(40)], tmp_path / f"x.{kind}"
    text = "".join(json.dumps(file) + "\n" for file in rows)
    if kind == "jsonl.gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif kind == "json":
        path.write_text(json.dumps(rows))
    elif kind == "csv":
        path.write_text("prompt,chosen,rejected\n" + "".join(f"q{i},a,b\n" for i in range(40)))
    elif kind == "utf16":
        path.write_bytes(text.encode("utf-16"))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)  # file row group
    (unit,) = cut_up([source(path)], 100)
    assert [number for number, _ in numbered([unit], [source(path)])] == list(range(40))


@pytest.mark.parametrize(("limit", "wanted"), [(0, 72), (1, 1), (20, 20), (33, 33), (50, 50), (500, 70)])
def test_a_limit_counts_over_the_training_files_in_order(limit: int, wanted: int, tmp_path: Path) -> None:
    sources = [
        source(lines(tmp_path / "a.jsonl", 20), 0),
        source(table(tmp_path / "b.parquet", 30, 7), 1),
        source(lines(tmp_path / "c.jsonl", 20), 2),
        source(lines(tmp_path / "t.jsonl", 2), 3, "test"),
    ]
    units = cut_up(sources, 1000, limit)
    found = [number for number, _ in numbered(units, sources)]
    every = [*range(20), *(ROWS_PER_FILE + i for i in range(30)), *(2 * ROWS_PER_FILE + i for i in range(20))]
    held_out = [3 * ROWS_PER_FILE, 3 * ROWS_PER_FILE + 1]
    assert found == (every[: limit or None] + held_out)
    assert len(found) - (2 if limit else 0) == wanted


def test_small_files_are_read_together_and_splits_apart(tmp_path: Path) -> None:
    sources = [source(lines(tmp_path / f"{i}.jsonl", 3, i), i, "test" if i > 6 else "") for i in range(9)]
    units = cut_up(sources, 1 << 20)
    groups = grouped(units, {file.index: file for file in sources}, 3 * max(unit.size for unit in units))
    assert 2 < len(groups) < 7
    assert [unit.file for group in groups for unit in group.units] == list(range(9))
    assert all(len({file.split for file in group.sources}) == 1 for group in groups)


def test_rows_that_were_counted_and_are_not_there_are_noticed(tmp_path: Path) -> None:
    file = source(table(tmp_path / "x.parquet", 10, 5))
    (unit,) = cut_up([file], 1 << 20)
    group = SourceGroup.of(0, [replace(unit, rows=11)], {0: file})
    out = locate(str(tmp_path), StorageConfig())
    with pytest.raises(RuntimeError, match="11 rows counted from 0, 10 read"):
        read_group(group, CorpusConfig(), 1, 1 << 20, out / "runs", out / "rejects")


def read(folder: Path, name: str, config: CorpusConfig, sources: list[Source]) -> dict[int, str]:
    """{row: its rejected response} of a corpus read as triage reads it."""
    work = Work.of(Run(locate(str(folder / name), StorageConfig())))
    found = reading.read_corpus(config, TriageConfig(), sources, work)
    assert found.files is not None
    rows = [file for block in range(found.blocks) for file in found.files.read(block).to_pylist()]
    assert len(rows) == found.made
    assert not (work.place / "runs").exists()
    return {file["row"]: file["rejected"] for file in rows}


def test_the_corpus_is_the_same_whatever_the_pieces_and_a_resume_reads_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    triage_in_process(monkeypatch)
    config = CorpusConfig(paths=("x",), rows_per_part=8)
    sources = [source(lines(tmp_path / "a.jsonl", 50), 0), source(table(tmp_path / "b.parquet", 40, 6), 1)]
    whole = read(tmp_path, "whole", config, sources)
    assert len(whole) == 90
    monkeypatch.setattr(units_module, "_LEAST", 700)
    monkeypatch.setattr(units_module, "_TRADE", 100)
    assert read(tmp_path, "cut", config, sources) == whole
    plan = json.loads((tmp_path / "cut" / "triaged" / "work" / "reading.json").read_text())
    assert plan["pieces"] > 4
    assert len(plan["groups"]) > 4
    monkeypatch.setattr(reading, "by_tasks", lambda *_, **__: pytest.fail("read again"))
    assert read(tmp_path, "cut", config, sources) == whole


def test_a_kill_between_files_and_pieces_costs_what_was_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    triage_in_process(monkeypatch)
    monkeypatch.setattr(units_module, "_LEAST", 700)
    monkeypatch.setattr(units_module, "_TRADE", 100)
    config = CorpusConfig(paths=("x",), rows_per_part=8)
    sources = [source(lines(tmp_path / "a.jsonl", 90), 0)]
    whole = read(tmp_path, "whole", config, sources)
    done: list[str] = []

    def killed_after(number: int) -> None:
        def tasks(function: Any, first: Any, *shared: Any, **_: Any) -> Any:
            for file in first:
                if len(done) >= number:
                    raise KeyboardInterrupt
                done.append(function.__name__)
                yield function(file, *shared)

        monkeypatch.setattr(reading, "by_tasks", tasks)

    for number in (3, 9, 15, 1000):
        killed_after(number)
        if number < 1000:
            with pytest.raises(KeyboardInterrupt):
                read(tmp_path, "killed", config, sources)
    assert read(tmp_path, "killed", config, sources) == whole
    plan = json.loads((tmp_path / "killed" / "triaged" / "work" / "reading.json").read_text())
    assert done.count("read_group") == len(plan["groups"])
    assert done.count("write_piece") == plan["pieces"]


def test_a_triage_that_an_earlier_version_began_is_refused(tmp_path: Path) -> None:
    work = Work.of(Run(locate(str(tmp_path / "run"), StorageConfig())))
    (work.place / "plan.json").write_text("{}")
    with pytest.raises(UserError, match="earlier version"):
        reading.read_corpus(CorpusConfig(), TriageConfig(), [source(lines(tmp_path / "a.jsonl", 5))], work)
