"""Whatever stands in a row: pairs, or a reject with a reason, and never another exception."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.corpus.test_formats_readme import rows
from trace_ray.config import COLUMN_NAMES, FORMAT_NAMES, CorpusConfig, StorageConfig
from trace_ray.corpus.formats import layout
from trace_ray.corpus.read import Source, read_sources
from trace_ray.corpus.rows import FORMATS, RawPair, RejectedRowError, fit_length, parse_row
from trace_ray.pairs import RejectReason
from trace_ray.storage.location import locate

KNOWN = sorted({name for shape in FORMATS.values() for names in shape.columns for name in names.split("|")})
BESIDE = [*layout.PROMPTS, *layout.DIALOGUES, *layout.SYSTEM_COLUMNS, *layout.VERDICTS, *chain(*layout.SCORES)]
BESIDE += ["turn", "winner", "is_response_0_safe", "is_response_1_safe", "safer_response_id", "better_response_id"]
BESIDE += ["score_0", "score_1", "answer_1", "overall_preference", "tools", "completion", "label", "text"]
COLUMNS = st.sampled_from(sorted({*KNOWN, *BESIDE}))
KEYS = [
    "role",
    "from",
    "content",
    "value",
    "text",
    "type",
    "input",
    "output",
    "response",
    "answer",
    "rank",
    "tool_calls",
]
KEYS += ["overall_score", "pm_score", "messages", "full_text", "post", "article"]
WORDS = ["", " ", "user", "assistant", "gpt", "system", "tool", "true", "0", "1", "-1", "nan", "tie", "model_a", "[]"]
WORDS += ["\n\nHuman: Why?\n\nAssistant: So.", "Human:", "Assistant: a\r\n\r\nHuman: b", "User: a\nAssistant:"]
WORDS += [
    "<|im_start|>user\nWhy?<|im_end|>",
    "<|im_start|>",
    "<|user|>a</s>",
    "<s>[INST]",
    '[{"role": "user", "content": 1}]',
]
WORDS += ['[{"role": 1}]', '{"from": "gpt", "value": null}', "[{'role': 'user'", '["a", "b"]', "\ud800", "So.</s>"]
TEXTS = st.sampled_from(WORDS) | st.text(max_size=20)
ATOMS = st.none() | st.booleans() | st.integers(-2, 2) | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)
SHOWN = [row for name in FORMATS for row in rows(name)]


def outcome(row: Any, config: CorpusConfig) -> tuple[list[RawPair], list[RejectedRowError]]:
    """The pairs of a row, and what refused it or some of them."""
    try:
        pairs = parse_row(row, config)
    except RejectedRowError as error:
        return [], [error]
    found, refused = [], []
    for pair in pairs:
        try:
            found.append(fit_length(pair, config.max_chars, config.too_long))
        except RejectedRowError as error:
            refused.append(error)
    return found, refused


def check(row: Any, config: CorpusConfig) -> None:
    pairs, refused = outcome(row, config)
    assert pairs or refused
    assert all(error.reason in RejectReason and error.detail for error in refused)
    for pair in pairs:
        assert pair.prompt[-1]["role"] == "user"
        assert {turn["role"] for turn in pair.prompt} <= {"user", "assistant", "system"}
        assert all(set(turn) == {"role", "content"} and isinstance(turn["content"], str) for turn in pair.prompt)
        assert pair.chosen.strip() != pair.rejected.strip()
        assert pair.chosen.strip()
        assert pair.rejected.strip()


CONFIGS = st.builds(
    CorpusConfig,
    format=st.sampled_from(["auto", "auto", "auto", *FORMAT_NAMES]),
    pairs=st.sampled_from(["best_worst", "adjacent", "all"]),
    min_margin=st.sampled_from([0.0, 1.0]),
    columns=st.dictionaries(
        st.sampled_from(COLUMN_NAMES), COLUMNS | st.sampled_from(["a.b", "answers.0", "."]), max_size=1
    ),
    max_chars=st.sampled_from([0, 5]),
    too_long=st.sampled_from(["reject", "truncate"]),
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(COLUMNS, VALUES, max_size=7), CONFIGS)
def test_any_value_in_any_column_is_a_pair_or_a_reject(row: dict[str, Any], config: CorpusConfig) -> None:
    check(row, config)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_good_row_with_one_value_changed_is_a_pair_or_a_reject(data: st.DataObject) -> None:
    row = dict(data.draw(st.sampled_from(SHOWN)))
    row[data.draw(st.sampled_from(sorted(row)) | COLUMNS)] = data.draw(VALUES)
    check(row, data.draw(CONFIGS))


@settings(max_examples=100, deadline=None)
@given(VALUES)
@example([])
@example("text")
@example(17)
def test_any_value_instead_of_a_row_is_a_reject(value: Any) -> None:
    pairs, refused = outcome(value, CorpusConfig())
    assert (pairs, len(refused)) == ([], 1)


@pytest.mark.parametrize("column", ["prompt", "chosen", "messages", "answers", "system", "context"])
@pytest.mark.parametrize("depth", [50, 400, 900, 2000])
def test_a_value_of_any_depth_costs_its_row_alone(column: str, depth: int, tmp_path: Path) -> None:
    good = json.dumps({"prompt": "Why?", "chosen": "So.", "rejected": "No."})
    for opened, closed in (("[", "]"), ('{"role":', "}"), ('[{"role":"user","content":', "}]")):
        deep = f'{{"rejected": "No.", "question": "x", "{column}": {opened * depth}1{closed * depth}}}'
        text = json.dumps({"prompt": f"{opened * depth}1{closed * depth}", "chosen": "a", "rejected": "b"})
        (tmp_path / "x.jsonl").write_text(f"{good}\n{deep}\n{text}\n{good}\n")
        source = Source(locate(str(tmp_path / "x.jsonl"), StorageConfig()), 0, "")
        (chunk,) = read_sources([source], CorpusConfig(), 0, 1 << 30)
        assert chunk.rows == chunk.pairs.num_rows + chunk.rejects.num_rows == 4
        assert {0, 3} <= set(chunk.pairs["row"].to_pylist())
        assert 1 in chunk.rejects["row"].to_pylist()


@pytest.mark.parametrize(
    "text", ["\n" * 200_000, "\n\n" * 100_000 + "x", " " * 200_000 + ":", "\r\n" * 100_000, "[{" * 100_000]
)
def test_a_text_of_blanks_takes_no_time(text: str) -> None:
    """A pattern that tries each blank from each blank would take hours."""
    for start in ("", "Human:", "User:", "<|im_start|>", "[{'role'"):
        outcome({"prompt": start + text + "a", "chosen": start + text + "b", "rejected": text + "c"}, CorpusConfig())
        outcome({"chosen": start + text + "b", "rejected": start + text + "c"}, CorpusConfig())
