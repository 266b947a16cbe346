"""Which prompts a round answers, which of the drawn answers stands against the greedy one, and what is left out."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from trace_ray.config import CorpusConfig, StorageConfig
from trace_ray.corpus.read import Source, read_numbered
from trace_ray.pairs import TRIAGED_SCHEMA, fitted, pair_id
from trace_ray.rounds.own import (
    ANSWER_SCHEMA,
    PROMPTS,
    VERDICT_SCHEMA,
    draws,
    held_out_pairs,
    own_pairs,
    pieces,
    training_prompts,
)
from trace_ray.storage.location import locate

HOSTILE = (
    "\n\nHuman: is this a dialogue?\n\nAssistant: it is not",
    "<|im_start|>assistant\nno marks<|im_end|>",
    '[{"role": "user", "content": "no turns"}]',
    '{"a": 1}',
    "[INST] hello [/INST] there",
    " begins with a blank",
    "ends with blanks  \n",
    "caf\u00e9 \u2603",
)


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def triaged(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as triage leaves them, with an id of their content."""
    made = [
        {"chosen": "good", "rejected": "bad", "source": "s", "category": "RETAIN", "split": "train", **row, "row": i}
        for i, row in enumerate(rows)
    ]
    for row in made:
        row["pair_id"] = pair_id(row["prompt"], row["chosen"], row["rejected"])
    return fitted(pa.Table.from_pylist(made, schema=TRIAGED_SCHEMA), TRIAGED_SCHEMA)


def answers(*rows: tuple[str | None, list[str]]) -> pa.Table:
    made = [
        {"pair_id": str(i), "source": "s", "prompt": asked(f"q{i}"), "greedy": greedy, "samples": samples}
        for i, (greedy, samples) in enumerate(rows)
    ]
    return pa.Table.from_pylist(made, schema=ANSWER_SCHEMA)


def verdicts(*p: list[float | None]) -> pa.Table:
    made = [{"pair_id": str(i), "p_violates": each} for i, each in enumerate(p)]
    return pa.Table.from_pylist(made, schema=VERDICT_SCHEMA)


def as_read(table: pa.Table) -> pa.Table:
    """The rows through the corpus' own reader, as a round's triage reads them."""
    source = Source(locate("/nowhere/part-0.parquet", StorageConfig()), 0, "")
    rows = ((source, i, row) for i, row in enumerate(table.to_pylist()))
    (chunk,) = read_numbered(rows, CorpusConfig(format="preference", holdout=0.0), 1 << 30)
    assert chunk.rejects.num_rows == 0, chunk.rejects.to_pylist()
    return chunk.pairs


def test_prompts_are_those_of_the_train_split_each_once_in_order() -> None:
    part = triaged(
        [
            {"prompt": asked("b"), "source": "first"},
            {"prompt": asked("held out"), "split": "test"},
            {"prompt": asked("b"), "chosen": "another answer"},
            {"prompt": asked("a")},
        ]
    )
    found = training_prompts(part, 0)
    assert [row["prompt"] for row in found] == [asked("b"), asked("a")]
    assert found[0]["source"] == "first"


def test_a_limit_takes_the_smallest_draws_whatever_part_they_are_in() -> None:
    rows = [{"prompt": asked(f"q{i}")} for i in range(40)]
    parts = [triaged(rows[:7]), triaged(rows[7:])]
    every = sorted(draw for part in parts for draw in draws(part, 3))
    some = [row["pair_id"] for part in parts for row in training_prompts(part, 3, every[9])]
    assert len(some) == 10
    whole = triaged(rows)
    assert {row["pair_id"] for row in training_prompts(whole, 3, every[9])} == set(some)
    assert {row["pair_id"] for row in training_prompts(whole, 4, every[9])} != set(some)


def test_pieces_hold_each_prompt_once() -> None:
    prompts = [{"n": i} for i in range(2 * PROMPTS + 1)]
    found = [row for piece in pieces({"part-0.parquet": len(prompts)}) for row in piece.of(prompts)]
    assert found == prompts


def test_what_an_answered_prompt_comes_to() -> None:
    pairs, counts = own_pairs(
        answers(
            ("no", ["No.", "yes", "perhaps"]),
            ("same", [" same", "same\n"]),
            ("cut", []),
            ("  ", ["something"]),
            (None, []),
        ),
        verdicts([0.7, 0.2, 0.2], [], [], [], []),
    )
    assert counts == {
        "pairs": 1,
        "identical_answers": 1,
        "no_whole_sample": 1,
        "empty_answers": 1,
        "refused_prompts": 1,
    }
    (row,) = pairs.to_pylist()
    assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == ("no", "yes")
    assert row["prompt"] == asked("q0")


def test_without_verdicts_the_first_that_differs_is_taken() -> None:
    pairs, _ = own_pairs(answers(("no", ["no", "second", "third"])), None)
    assert pairs["rejected"].to_pylist()[0][0]["content"] == "second"


def test_verdicts_of_other_prompts_are_refused() -> None:
    with pytest.raises(RuntimeError, match="different prompts"):
        own_pairs(answers(("a", ["b", "c"]), ("d", ["e", "f"])), verdicts([0.1, 0.2]).slice(0, 1))


@pytest.mark.parametrize("text", HOSTILE)
def test_an_answer_is_read_back_as_it_was_said(text: str) -> None:
    pairs, _ = own_pairs(answers((text, ["another"]), ("another", [text])), None)
    read = as_read(pairs)
    assert read["chosen"].to_pylist() == [text, "another"]
    assert read["rejected"].to_pylist() == ["another", text]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_held_out_pair_stays_the_pair_that_it_was(text: str) -> None:
    """Its id is a hash of prompt and answers: the same prompts are evaluated, in the same order."""
    talk = [{"role": "system", "content": "be kind"}, *asked("q"), {"role": "assistant", "content": text}, *asked("r")]
    part = triaged(
        [
            {"prompt": asked(text), "chosen": text, "rejected": "no", "split": "test", "source": "mine"},
            {"prompt": talk, "chosen": "yes", "rejected": text, "split": "test"},
            {"prompt": asked("trained on")},
        ]
    )
    read = as_read(held_out_pairs(part))
    assert read["pair_id"].to_pylist() == part["pair_id"].to_pylist()[:2]
    assert read["source"].to_pylist() == ["mine", "s"]
