"""`trace-ray check`: what a file holds is told, in words and as JSON; what gives nothing ends with 2 and one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from trace_ray.cli.app import app
from trace_ray.config import CorpusConfig, StorageConfig
from trace_ray.corpus.check import SAMPLED_ROWS, check_corpus, refusal
from trace_ray.corpus.mapping import working_columns
from trace_ray.corpus.read import Source
from trace_ray.storage.location import locate

SHARED = Path(__file__).resolve().parents[3] / "shared" / "cases" / "corpora"


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(prompt: str, chosen: str = "So.", rejected: str = "No.") -> dict[str, str]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def check(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


def told(*arguments: object) -> tuple[int, dict[str, Any]]:
    result = check("--json", *arguments)
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Seven training rows: two of a prompt that is held out, one repeated, two refused; three held-out ones."""
    rows = [row("a"), row("b"), row("b"), row("held"), row("held", "Yes."), {"prompt": "x"}, row("y", "same", "same")]
    return written(tmp_path / "a.jsonl", rows), written(tmp_path / "t.jsonl", [row("held"), row("c"), row("d")])


def test_everything_that_a_file_holds_is_told(files: tuple[Path, Path]) -> None:
    code, found = told(files[0], "--test", files[1])
    assert code == 0
    train, test = found["files"]
    assert (train["split"], test["split"]) == ("train", "test")
    assert (train["kind"], train["rows"], train["whole"], train["pairs"]) == ("JSON lines", 7, True, 5)
    assert train["columns"] == ["prompt", "chosen", "rejected"]
    assert sum(train["formats"].values()) == 7
    first = {"line": 1, "prompt": [{"role": "user", "content": "a"}], "chosen": "So.", "rejected": "No."}
    assert train["first"] == first
    assert {reason: (tally["rows"], tally["line"]) for reason, tally in train["rejects"].items()} == {
        "missing_field": (1, 6),
        "identical_responses": (1, 7),
    }
    assert {name: found[name] for name in ("pairs", "held_out", "duplicates", "in_both")} == {
        "pairs": 8,
        "held_out": 3,
        "duplicates": 2,  # b in one file, held in both
        "in_both": 2,
    }


def test_people_are_told_the_same_in_lines(files: tuple[Path, Path]) -> None:
    result = check(files[0], "--test", files[1])
    lines = result.stdout.splitlines()
    assert f"{files[0]} (train)" in lines
    assert "  JSON lines; 7 rows: 5 pairs, 2 refused" in lines
    assert "    user: a" in lines
    assert any(line.startswith("  refused as missing_field: 1, the first in row 6: ") for line in lines)
    assert lines[-1] == "together: 8 pairs, 3 held out; 2 duplicates; 2 training pairs whose prompt is held out too"
    assert "2 of 7 rows are refused (29 %): missing_field 1, identical_responses 1" in " ".join(result.stderr.split())


def test_a_format_is_told_of_the_rows_that_were_looked_at(files: tuple[Path, Path], tmp_path: Path) -> None:
    assert "  format: preference 6, none 1" in check(files[0]).stdout.splitlines()
    assert "  format: preference" in check(files[1]).stdout.splitlines()
    long = written(tmp_path / "long.jsonl", [row(f"q{i}") for i in range(SAMPLED_ROWS + 1)])
    assert f"  format: preference (of the first {SAMPLED_ROWS:,} rows)" in check(long).stdout.splitlines()


def test_a_texts_controls_do_not_reach_the_terminal(tmp_path: Path) -> None:
    result = check(written(tmp_path / "a.jsonl", [row("\x1b[2Jbold \u202e[red]", "a\nb", "é\u2028")]))
    assert "    user: \\x1b[2Jbold \\u202e[red]" in result.stdout.splitlines()
    assert "    chosen: a\\nb" in result.stdout.splitlines()
    assert "    rejected: é\\u2028" in result.stdout.splitlines()


def test_only_the_first_rows_are_read_unless_asked_for(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", [row(f"q{i}") for i in range(50)])
    assert "the first 20 rows: 20 pairs" in check(file, "--rows", "20").stdout
    assert told(file, "--rows", "0")[1]["files"][0]["rows"] == 50


def test_a_configuration_says_where_the_corpus_is_and_how_it_is_read(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", [{"ask": {"text": "Why?"}, "one": "So.", "two": "No."}])
    config = tmp_path / "c.yaml"
    config.write_text(f"corpus: {{paths: ['{file}'], columns: {{prompt: ask.text, chosen: one, rejected: two}}}}\n")
    code, found = told("-c", config)
    assert (code, found["files"][0]["first"]["prompt"][0]["content"]) == (0, "Why?")
    assert found["files"][0]["formats"] == {"preference": 1}
    code, found = told(file, "corpus.columns={prompt: ask.text, chosen: two, rejected: one}")
    assert (code, found["files"][0]["first"]["chosen"]) == (0, "No.")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "FILES: none: name files, or a configuration with corpus.paths"),
        (("nowhere.jsonl",), "corpus.paths: nowhere.jsonl: no such file"),
        (("nowhere.jsonl", "corpus.holdout=2"), "corpus.holdout: 2.0"),
    ],
)
def test_a_mistake_is_told(arguments: tuple[str, ...], said: str) -> None:
    result = check(*arguments)
    assert result.exit_code != 0
    assert said in str(result.exception)


def test_a_file_that_gives_nothing_ends_with_2_and_the_others_are_told(tmp_path: Path) -> None:
    good = written(tmp_path / "good.jsonl", [row("a")])
    useless = written(tmp_path / "bad.jsonl", [{"ask": "Why?", "answer_w": "So.", "answer_l": "No."}] * 3)
    (tmp_path / "page.jsonl").write_text("<html>")
    result = check(good, useless, tmp_path / "page.jsonl")
    assert result.exit_code == 2
    first, second = [line for line in result.stderr.splitlines() if line.startswith("trace-ray: ")]
    assert first.startswith(f"trace-ray: {useless}: all 3 rows are refused, 3 as missing_field (row 1: ")
    assert "columns seen: ask, answer_w, answer_l; wanted: chosen and rejected with a prompt" in first
    assert first.endswith("try corpus.columns={prompt: ask, chosen: answer_w, rejected: answer_l}")
    assert second == f"trace-ray: {tmp_path / 'page.jsonl'}: a web page or XML, not data: look at how it was fetched"
    assert "good.jsonl (train)" in result.stdout


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"ask": "Why?", "better": "So.", "worse": "No."}, {"prompt": "ask", "chosen": "better", "rejected": "worse"}),
        (
            {"q": {"text": "Why?"}, "pos": {"text": "So."}, "neg": {"text": "No."}},
            {"prompt": "q.text", "chosen": "pos.text", "rejected": "neg.text"},
        ),
        ({"user_request": "Why?", "chosen": "So.", "rejected": "No."}, {"prompt": "user_request"}),
        (
            {"prompt": "Why?", "preferred_text": "So.", "non_preferred_text": "No.", "loser": "No."},
            {"chosen": "preferred_text", "rejected": "loser"},
        ),
        ({"prompt": "Why?", "answer": "So."}, {}),
        ({"prompt": "Why?", "best": "So.", "worst": "So."}, {}),  # no pair either
        ({"prompt_id": "Why?", "winner_score": "So.", "loser_score": "No."}, {}),
    ],
)
def test_a_mapping_is_guessed_from_names_and_works(columns: dict[str, Any], found: dict[str, str]) -> None:
    assert working_columns([columns] * 2, CorpusConfig()) == found


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/cases")
@pytest.mark.parametrize("case", sorted(path.name for path in SHARED.glob("*.*")))
def test_every_shared_case_is_read_or_refused_in_one_line(case: str) -> None:
    """Rows in are pairs and rejects out; a pair has turns and two answers that differ."""
    (file,) = check_corpus([Source(locate(str(SHARED / case), StorageConfig()), 0, "")], CorpusConfig(), 0).files
    assert file.problem == ""
    assert file.pairs + sum(tally.rows for tally in file.rejects.values()) >= file.rows > 0
    if file.first is None:
        assert "\n" not in refusal(file, file.rows)
    else:
        assert file.first.prompt[-1]["role"] == "user"
        assert file.first.chosen.strip() != file.first.rejected.strip()
