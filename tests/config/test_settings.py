"""Templates in settings: a file is its text, a date is the run's, and what cannot be is said at load."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chat.written import TEMPLATES, tokenizer
from trace_ray.chat.text import ChatTokenizer, accepted
from trace_ray.chat.told import cut_counts, cut_warning
from trace_ray.config import Config, ModelConfig, ObjectiveConfig, TermConfig
from trace_ray.config.load import load_config
from trace_ray.config.templates import template_dates
from trace_ray.errors import UserError
from trace_ray.impact.rows import tokenized_rows
from trace_ray.model.gguf import add_begin_of_text
from trace_ray.runs.opening import open_run, with_dates

POLICY = "policy.text=Be brief."


def test_a_template_s_file_becomes_its_text_for_model_and_judges(tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text(TEMPLATES["no end"], encoding="utf-8")
    where = ("model", "evaluate.judge", "triage.judge")
    config = load_config([], [POLICY, *(f"{section}.chat_template={file}" for section in where)])
    found = (config.model, config.evaluate.judge, config.triage.judge)
    assert [section.chat_template for section in found] == [TEMPLATES["no end"]] * 3
    kept = load_config(
        [], [POLICY, "model.chat_template=rag", "model.chat_template_kwargs={enable_thinking: true}"]
    ).model
    assert (kept.chat_template, kept.chat_template_kwargs) == ("rag", {"enable_thinking": True})


def test_a_run_resumed_on_another_day_has_the_day_on_which_it_was_begun(tmp_path: Path) -> None:
    from trace_ray.config.load import dump_config

    run = open_run(str(tmp_path), Config())
    given = load_config([], [POLICY, "evaluate.judge.chat_template_date=2026-01-02"])
    first = with_dates(run, given)
    assert all(template_dates(first).values())
    assert first.evaluate.judge.chat_template_date == "2026-01-02"
    begun = dump_config(first).replace(first.model.chat_template_date, "2026-01-31")  # as if it had been that day
    run.place.make()
    run.write_config(begun)
    again = with_dates(run, given)
    assert again.model.chat_template_date == again.triage.judge.chat_template_date == "2026-01-31"
    assert again.evaluate.judge.chat_template_date == "2026-01-02"
    made = tokenizer(TEMPLATES["dated"])
    ids = [
        ChatTokenizer(made, 256, loaded.model).prompts([[{"role": "user", "content": "hi"}]])
        for loaded in (again, again)
    ]
    assert ids[0] == ids[1]
    assert "Today is 31 Jan 2026" in made.decode(ids[0][0])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.chat_template_date=yesterday", "give a day as 2026-01-31"),
        ("triage.judge={backend: openai, chat_template: x, endpoint: {base_url: 'http://h'}}", "give it there"),
    ],
)
def test_a_template_s_settings_are_checked_at_load(override: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_config([], [POLICY, override])


@pytest.mark.parametrize("loss", ["dpo", "kl"])
def test_pairs_that_are_equal_after_the_cut_are_refused_whatever_is_read_of_them(loss: str) -> None:
    """As the file of 23 pairs, 11 of which begin with the same 400 words."""
    alike = {"prompt": [{"role": "user", "content": "Why?"}], "source": "x", "category": "RETAIN", "corrected": None}
    rows = [
        alike | {"row": number, "chosen": start + "yes.", "rejected": start + "no."}
        for number, start in enumerate(["", "word " * 420] * 11 + [""])
    ]
    rows.append(alike | {"row": 99, "chosen": "Same.", "rejected": " Same."})
    term = TermConfig(loss="dpo", prefer="chosen", suppress=("rejected",)) if loss == "dpo" else None
    objective = ObjectiveConfig(RETAIN=term) if term else ObjectiveConfig()
    chat = ChatTokenizer(tokenizer(TEMPLATES["instruct, trimmed"]), 256)
    kept, refused = tokenized_rows(rows, objective, chat)
    assert len(kept) + len(refused) == len(rows)
    assert [row["reason"] for row in refused] == ["equal_after_cut"] * 11 + ["identical_responses"]
    assert {row["stage"] for row in refused} == {"impact"}
    assert not any(row["cut"] for row in kept)


def test_what_is_said_of_cuts() -> None:
    counts = cut_counts([["prompt"], ["chosen", "rejected"], None, []])
    said = cut_warning(counts, {"equal_after_cut": 3}, 256)
    assert said == (
        "2 of 4 rows (50.0 %) are cut at 256 tokens: 1 prompt, 1 chosen, 1 rejected; 3 rows refused: 3 equal_after_cut"
    )
    assert cut_warning(cut_counts([[]]), {}, 256) == ""


def test_an_imported_tokenizer_adds_begin_of_text_as_its_file_says(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    made = tokenizer(TEMPLATES["no end"])
    ask = [{"role": "user", "content": "hi"}]
    (bare,) = accepted(ChatTokenizer(made, 256, ModelConfig()).prompts([ask]))
    for wanted in (True, False):
        add_begin_of_text(made, wanted=wanted)
        made.save_pretrained(tmp_path / str(wanted))
        again = AutoTokenizer.from_pretrained(tmp_path / str(wanted))
        (ids,) = ChatTokenizer(again, 256).prompts([ask])
        assert ids == [made.bos_token_id] * wanted + bare
