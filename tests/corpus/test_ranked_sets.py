"""Ranked sets: which pairs they make, and that the account of rows, pairs and rejects holds with several pairs a row."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from tests.support.regrouped import regrouped
from tests.triage.test_triage_account import outcome, run_with, tallied
from trace_ray.config import CorpusConfig, StorageConfig, TriageConfig
from trace_ray.config.policy import PolicyConfig
from trace_ray.corpus.read import Source, read_sources
from trace_ray.corpus.row_sums import row_sum
from trace_ray.corpus.rows import RejectedRowError, parse_row
from trace_ray.pairs import LINES_PER_FILE, PAIRS_PER_ROW, ROWS_PER_FILE, line_of
from trace_ray.storage.location import Location, locate
from trace_ray.triage.account import ReadRows
from trace_ray.triage.publish import publish


def place(path: Path) -> Location:
    return locate(str(path), StorageConfig())


def rated(*scores: object, name: str = "q") -> dict[str, object]:
    completions = [{"response": f"a{i}", "overall_score": score} for i, score in enumerate(scores)]
    return {"instruction": name, "completions": completions}


@pytest.mark.parametrize(
    ("pairs", "margin", "made"),
    [
        ("best_worst", 0, ["a1>a2"]),
        ("adjacent", 0, ["a1>a0", "a3>a2"]),
        ("adjacent", 3, ["a3>a2"]),
        ("all", 0, ["a1>a0", "a1>a3", "a1>a2", "a0>a2", "a3>a2"]),
        ("all", 4, ["a1>a2"]),
    ],
)
def test_a_ranked_set_makes_the_pairs_that_are_asked_for(pairs: str, margin: float, made: list[str]) -> None:
    found = parse_row(rated(4, 5, 1, 4.0, None, "N/A"), CorpusConfig(pairs=pairs, min_margin=margin))
    assert [f"{pair.chosen}>{pair.rejected}" for pair in found] == made


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (rated(3, 3, 3), "scores from 3 to 3, all the same"),
        (rated(3), "1 answers with a score: a pair needs two"),
        (rated(None, None), "0 answers with a score"),
        (rated(3, 2), r"no margin of corpus\.min_margin = 1\.5"),
    ],
)
@pytest.mark.parametrize("pairs", ["best_worst", "adjacent", "all"])
def test_a_set_without_a_preference_is_refused(row: dict[str, object], said: str, pairs: str) -> None:
    with pytest.raises(RejectedRowError, match=said) as caught:
        parse_row(row, CorpusConfig(pairs=pairs, min_margin=1.5))
    assert caught.value.reason == "no_preference"


def test_a_set_of_more_pairs_than_a_row_has_numbers_is_refused() -> None:
    fits, over = rated(*range(45)), rated(*range(46))
    assert len(parse_row(fits, CorpusConfig(pairs="all"))) == 990 <= PAIRS_PER_ROW
    with pytest.raises(RejectedRowError, match=r"46 answers make 1035 pairs, 1024 at most: corpus\.pairs=adjacent"):
        parse_row(over, CorpusConfig(pairs="all"))


def corpus(path: Path, rows: int) -> Path:
    lines = [json.dumps(rated(3, 2, 1, name=f"q{i}")) for i in range(rows)]
    same = {
        "instruction": "same",
        "completions": [{"response": t, "overall_score": s} for t, s in (("a", 3), ("a ", 2), ("b", 1))],
    }
    path.write_text("\n".join([*lines, json.dumps(same), "{broken", json.dumps(rated(1, 1))]))
    return path


def test_rows_and_extra_are_pairs_and_rejects(tmp_path: Path) -> None:
    """Row 7 makes three pairs of which one has equal answers: two pairs and a reject."""
    sources = [Source(place(corpus(tmp_path / f"{i}.jsonl", 7)), i, "") for i in range(2)]
    rejects = place(tmp_path / "rejects")
    tally, blocks = regrouped(sources, CorpusConfig(pairs="all"), 4, place(tmp_path / "work"), rejects)
    made = [row for block in range(4) for row in blocks.read(block)["row"].to_pylist()]
    refused = [row for part in rejects.files() for row in part.read_parquet().to_pylist()]
    assert (tally["rows"], tally["extra"], tally["rejects"]) == (20, 32, 6)
    assert len(made) + len(refused) == tally["rows"] + tally["extra"]
    numbers = [*made, *(row["row"] for row in refused)]
    assert len(set(numbers)) == len(numbers)
    assert tally["row_sum"] % 2**64 == row_sum(pa.chunked_array([numbers]))
    wanted = [*(n for n in range(8) for _ in range(3)), 8, 9]
    for i in range(2):
        assert sorted(line_of(number) - 1 for number in numbers if number // ROWS_PER_FILE == i) == wanted
    assert [(r["row"] % ROWS_PER_FILE, r["reason"]) for r in refused[:3]] == [
        (7, "identical_responses"),
        (8, "broken_json"),
        (9, "no_preference"),
    ]
    assert {number % ROWS_PER_FILE // LINES_PER_FILE for number in made} == {0, 1, 2}


def test_a_limit_counts_rows_not_pairs(tmp_path: Path) -> None:
    source = Source(place(corpus(tmp_path / "x.jsonl", 7)), 0, "")
    (chunk,) = read_sources([source], CorpusConfig(pairs="adjacent"), 3, 1 << 30)
    assert (chunk.rows, chunk.extra, chunk.pairs.num_rows) == (3, 3, 6)


def test_triages_account_holds_with_several_pairs_a_row(tmp_path: Path) -> None:
    """Row 0 made three pairs, one of them refused; row 1 one."""
    numbers = [0, LINES_PER_FILE, 2 * LINES_PER_FILE, 1]
    total = row_sum(pa.chunked_array([numbers]))
    read = ReadRows(2, total, 1, 2)
    run = run_with(tmp_path / "good", numbers[:2] + numbers[3:], numbers[2:3])
    publish(run, PolicyConfig(), TriageConfig(), outcome(read, tallied(run)), 0.0)
    counts = run.triaged.manifest()["counts"]
    assert counts == {"rows_in": 2, "extra_pairs": 2, "rejects": 1, "triaged": 3}
    assert counts["rows_in"] + counts["extra_pairs"] == counts["triaged"] + counts["rejects"]
    run = run_with(tmp_path / "bad", numbers[:2], numbers[2:3])
    told = tallied(run)
    with pytest.raises(RuntimeError, match="triage lost or doubled rows: 4 read, 3 written"):
        publish(run, PolicyConfig(), TriageConfig(), outcome(read, told), 0.0)
