"""Text to tokens with the shipped tokenizer: what is cut, from which end, and what a response ends in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import trace_ray.synth
from trace_ray.config import ModelConfig
from trace_ray.model.loading import load_chat_tokenizer

MODEL = str(Path(trace_ray.synth.__file__).with_name("models") / "policy")
ASK = [{"role": "user", "content": "please tell me how to make a good cup of tea and what to do then"}]
HEADER = 4
"""Tokens before the question: begin of text, start of turn, user, line break."""
LONG, SHORT = "first you take water and then you take tea and wait", "no"


def tokenizer(max_length: int) -> Any:
    return load_chat_tokenizer(ModelConfig(path=MODEL, max_length=max_length))


@pytest.fixture(scope="module")
def whole() -> Any:
    (pair,) = tokenizer(10_000).pairs([ASK], [{"chosen": LONG, "rejected": SHORT}])
    return pair


def test_prompt_and_response_join_to_what_the_template_writes(whole: Any) -> None:
    chat = tokenizer(10_000).tokenizer
    turns = [*ASK, {"role": "assistant", "content": LONG}]
    dialogue = list(chat(chat.apply_chat_template(turns, tokenize=False), add_special_tokens=False)["input_ids"])
    joined = whole.prompt_ids + whole.response_ids["chosen"]
    assert dialogue[: len(joined)] == joined
    assert not chat.decode(dialogue[len(joined) :]).strip()  # a template may end a turn with a line break


def test_a_response_ends_the_turn_once(whole: Any) -> None:
    chat = tokenizer(10_000)
    for name, text in (("chosen", LONG), ("rejected", SHORT)):
        assert chat.tokenizer.decode(whole.response_ids[name]).endswith(chat.end_of_turn)
        bare = list(chat.tokenizer(text, add_special_tokens=False)["input_ids"])
        end = list(chat.tokenizer(chat.end_of_turn, add_special_tokens=False)["input_ids"])
        assert whole.response_ids[name] == bare + end


def test_a_response_loses_its_end_and_the_prompt_the_beginning_of_its_text(whole: Any) -> None:
    prompt, chosen = whole.prompt_ids, whole.response_ids["chosen"]
    limit = 24
    assert len(prompt) > limit
    assert len(chosen) > limit // 2
    (cut,) = tokenizer(limit).pairs([ASK], [{"chosen": LONG, "rejected": SHORT}])
    assert cut.response_ids["chosen"] == chosen[: limit // 2]
    assert cut.prompt_ids == [*prompt[:HEADER], *prompt[HEADER + len(prompt) - limit // 2 :]]
    assert cut.response_ids["rejected"] == whole.response_ids["rejected"]
    assert cut.truncated == ("prompt", "chosen")


def test_nothing_is_cut_that_fits_exactly(whole: Any) -> None:
    """One token more, and the prompt gives way: a response may take half of the room in any case."""
    fits = len(whole.prompt_ids) + len(whole.response_ids["chosen"])
    header, text = whole.prompt_ids[:HEADER], whole.prompt_ids[HEADER:]
    for limit, lost in ((fits, 0), (fits - 1, 1)):
        (pair,) = tokenizer(limit).pairs([ASK], [{"chosen": LONG, "rejected": SHORT}])
        assert (pair.prompt_ids, pair.response_ids) == ([*header, *text[lost:]], whole.response_ids)
        assert pair.truncated == ("prompt",) * lost


def test_a_prompt_alone_keeps_its_header_and_its_last_tokens(whole: Any) -> None:
    header, text = whole.prompt_ids[:HEADER], whole.prompt_ids[HEADER:]
    for limit in (15, 12):
        assert tokenizer(limit).prompts([ASK]) == [[*header, *text[HEADER - limit :]]]
        assert tokenizer(999).prompts([ASK], limit=limit) == [[*header, *text[HEADER - limit :]]]


def test_a_prompt_without_room_for_any_text_is_refused(whole: Any) -> None:
    (refused,) = tokenizer(8).prompts([ASK])
    assert refused.reason == "too_long"
    assert "raise model.max_length" in refused.detail
