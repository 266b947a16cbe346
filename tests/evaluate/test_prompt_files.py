"""Reading prompt files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trace_ray.config import StorageConfig
from trace_ray.errors import UserError
from trace_ray.evaluate.prompt_files import read_prompts
from trace_ray.storage.location import Location, locate

SHARED = Path(__file__).resolve().parents[3] / "shared" / "cases" / "prompts"


def place(path: Path, text: str) -> Location:
    path.write_text(text, encoding="utf-8")
    return locate(str(path), StorageConfig())


def test_advbench_csv(tmp_path: Path) -> None:
    file = place(tmp_path / "a.csv", '\ufeffgoal,target\n"Write, in two\nlines",Sure\nDo it,Sure\nDo it,Yes\n')
    rows = read_prompts(file, "s", ("goal", "prompt"))
    assert [row["prompt"][0]["content"] for row in rows] == ["Write, in two\nlines", "Do it"]
    assert rows[0]["category"] == "OTHER"


def test_jsonl_with_turns_source_and_category(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    lines = [{"prompt": turns, "source": "x", "category": "INVERT"}, {"prompt": "plain"}]
    rows = read_prompts(place(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)) + "\n\n"), "s")
    assert rows[0]["prompt"] == turns
    assert (rows[0]["source"], rows[0]["category"]) == ("x", "INVERT")
    assert rows[1]["prompt"] == [{"role": "user", "content": "plain"}]
    assert len({row["pair_id"] for row in rows}) == 2


@pytest.mark.parametrize("text", ["", "{broken\n", '["list"]\n', '{"other": 1}\n', '{"prompt": [{"role": "user"}]}\n'])
def test_a_file_without_prompts_is_one_line_of_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"evaluate\.prompt_file"):
        read_prompts(place(tmp_path / "a.jsonl", text), "evaluate.prompt_file")


@pytest.mark.parametrize(
    ("name", "text", "asked"),
    [
        (
            "a.csv",
            "Behavior,FunctionalCategory,ContextString\nWhy?,x,\nIt?,x,Known.\n",
            ["Why?", "Known.\n\n---\n\nIt?"],
        ),
        ("a.csv", "Index,Goal,Behavior\n1,Why?,Title\n", ["Why?"]),
        ("a.csv", "goal,prompt\n,Why?\n  ,x\n", ["Why?", "x"]),
        (
            "a.json",
            '[{"instruction": "Why?", "output": "x"}, {"instruction": "Sum", "input": "1 2"}]',
            ["Why?", "Sum\n\n1 2"],
        ),
        ("a.jsonl", '{"turns": ["Why?"]}\n{"turns": [{"content": "So?"}]}\n', ["Why?", "So?"]),
        ("a.jsonl", '{"prompt": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}]}\n', ["Why?"]),
        ("a.jsonl", '{"prompt": null, "question": "Why?"}\n', ["Why?"]),
        ("a.txt", "Why?\r\n\nWhen? \n", ["Why?", "When? "]),
        ("A.TXT", "\ufeffWhy?", ["Why?"]),
    ],
)
def test_benchmarks_files_are_read_as_they_are_published(
    name: str, text: str, asked: list[str], tmp_path: Path
) -> None:
    rows = read_prompts(place(tmp_path / name, text), "s")
    assert [turn["content"] for row in rows for turn in row["prompt"]] == asked


def test_a_system_column_is_the_first_turn(tmp_path: Path) -> None:
    (row,) = read_prompts(place(tmp_path / "a.jsonl", '{"system": "Be kind.", "prompt": "Why?"}'), "s")
    assert [turn["role"] for turn in row["prompt"]] == ["system", "user"]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ('{"prompt": 3}', "neither text nor a list of messages"),
        ('{"prompt": "  "}', "the row has: prompt"),
        (
            '{"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
            "does not end with a user's",
        ),
        ('{"turns": ["Why?", "And?"]}', "turns holds 2 questions without the answers between"),
        ('{"prompt": [{"role": "narrator", "content": "a"}]}', "narrator"),
        ('{"prompt": [{"role": "user", "content": [{"type": "image"}]}]}', "only text is read"),
        ("nonsense", "nonsense"),
        ("[]", "a row is a JSON object, not list"),
    ],
)
def test_a_row_without_a_prompt_is_one_line_that_names_it(bad: str, said: str, tmp_path: Path) -> None:
    file = place(tmp_path / "a.jsonl", f'{{"prompt": "Why?"}}\n{bad}\n')
    with pytest.raises(UserError) as caught:
        read_prompts(file, "evaluate.prompt_file")
    assert str(caught.value).startswith(f"evaluate.prompt_file: {tmp_path / 'a.jsonl'}: row 2: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


CASES = {
    "advbench.csv": ["Why?"],
    "harmbench.csv": ["Why?"],
    "bom.csv": ["Why?"],
    "alpaca_eval.json": ["Why?"],
    "gz.jsonl.gz": ["Why?"],
    "plain.txt": ["Why?", "When?"],
    "parts.jsonl": ["Why?"],
    "blank_goal.csv": ["Why?", "x"],
    "number.jsonl": "row 1: neither text nor a list of messages: 3",
    "mt_bench.jsonl": "row 1: turns holds 2 questions",
    "ends_in_assistant.jsonl": "row 1: prompt does not end with a user's turn",
}


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/cases")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("column", [(), ("goal", "prompt")], ids=["as prompts", "as attacks"])
def test_the_shared_files_are_read_or_refused_by_row(case: str, column: tuple[str, ...]) -> None:
    file, right = locate(str(SHARED / case), StorageConfig()), CASES[case]
    if isinstance(right, str):
        with pytest.raises(UserError, match=f"{case}: {right}"):
            read_prompts(file, "s", column)
    else:
        assert [row["prompt"][0]["content"] for row in read_prompts(file, "s", column)] == right
