"""Reading prompt files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trace_ray.config import StorageConfig
from trace_ray.errors import UserError
from trace_ray.evaluate.prompts import read_prompts
from trace_ray.storage import Location, locate


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
