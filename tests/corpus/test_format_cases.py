"""What each kind of public row becomes: the pair, word for word, or the reason and the line that refuses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trace_ray.config import CorpusConfig, StorageConfig
from trace_ray.corpus.read import Source, read_sources
from trace_ray.corpus.rows import RawPair, RejectedRowError, fit_length, parse_row
from trace_ray.storage.location import locate

Row = dict[str, Any]
SHARED = Path(__file__).resolve().parents[3] / "shared" / "cases" / "corpora"
BOTH = {"chosen": "So.", "rejected": "No."}
WHY = [("user", "Why?")]
EGG = [("user", "How?"), ("assistant", "For long?"), ("user", "Soft.")]
HH = "\n\nHuman: How?\n\nAssistant: For long?\n\nHuman: Soft.\n\nAssistant:"
PIRATE = ("system", "Be a pirate.")
TOOL = [{"type": "function", "function": {"name": "f"}}]
GOOD = {"messages": [{"role": "user", "content": "Why?"}]}


def turn(role: str, content: Any, **more: Any) -> Row:
    return {"role": role, "content": content} | more


def asked(*turns: Row, good: Any = "So.", bad: Any = "No.", **more: Any) -> Row:
    return {"prompt": list(turns), "chosen": good, "rejected": bad} | more


def whole(*before: Row, good: str = "So.", bad: str = "No.", **more: Any) -> Row:
    return {"chosen": [*before, turn("assistant", good)], "rejected": [*before, turn("assistant", bad)]} | more


def read(row: Row) -> RawPair:
    (pair,) = parse_row(row, CorpusConfig())
    return fit_length(pair, 0, "reject")


READ: dict[str, tuple[Row, list[tuple[str, str]]]] = {
    # a prompt is never invented
    "question": ({"question": "Why?", "chosen": "The sky is.", "rejected": "The sky was."}, WHY),
    "instruction and input": ({"instruction": "Sum.", "input": "1+1", **BOTH}, [("user", "Sum.\n\n1+1")]),
    "input alone": ({"input": "Why?", **BOTH}, WHY),
    "context as turns": ({"context": [turn("user", "Why?")], **BOTH}, WHY),
    "messages": (GOOD | BOTH, WHY),
    "messages that end with the chosen answer": (
        {"messages": [*GOOD["messages"], turn("assistant", "So.")], **BOTH},
        WHY,
    ),
    "a prompt beside its dialogue": ({"prompt": "Why?", **whole(turn("user", "Why?"))}, WHY),
    "a prompt beside its messages": ({"prompt": "Why?", **GOOD, **BOTH}, WHY),
    "the last question of a dialogue": (
        {"prompt": "Soft.", **whole(turn("user", "How?"), turn("assistant", "For long?"), turn("user", "Soft."))},
        EGG,
    ),
    "LLaMA-Factory's history": ({"instruction": "Soft.", "history": [["How?", "For long?"]], **BOTH}, EGG),
    "facts about a row beside an implicit prompt": (
        {"chosen": "Why? So.", "rejected": "Why? No.", "source": "x", "chosen_model": "m", "n": 3},
        WHY,
    ),
    # a dialogue is never taken for one turn
    "HH with a prompt": ({"prompt": HH, "chosen": " So.", "rejected": " No."}, EGG),
    "HH with a prompt and CRLF": ({"prompt": HH.replace("\n", "\r\n"), "chosen": " So.", "rejected": " No."}, EGG),
    "HH once more in the answers": ({"prompt": HH, "chosen": f"{HH} So.", "rejected": f"{HH} No."}, EGG),
    "HH stripped": ({"chosen": f"{HH} So.".strip(), "rejected": f"{HH} No.".strip()}, EGG),
    "HH in lines": ({"chosen": "Human: Why?\nAssistant: So.", "rejected": "Human: Why?\nAssistant: No."}, WHY),
    "other marks": ({"prompt": "### Human: Why?\n### Assistant:", **BOTH}, WHY),
    "a prompt as messages, whole dialogues as answers": (
        asked(turn("user", "Why?")) | whole(turn("user", "Why?")),
        WHY,
    ),
    "JSON text": ({"prompt": json.dumps([turn("user", "Why?")]), **BOTH}, WHY),
    "an answer that is other JSON": ({"prompt": "Why?", "chosen": "So.", "rejected": '{"a": "content"}'}, WHY),
    "ChatML": ({"prompt": "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n", **BOTH}, WHY),
    "Llama 3": (
        {
            "prompt": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
            "chosen": "So.<|eot_id|>",
            "rejected": "No.<|eot_id|>",
        },
        WHY,
    ),
    "Gemma": ({"prompt": "<bos><start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n", **BOTH}, WHY),
    "Zephyr": ({"prompt": "<|user|>\nWhy?</s>\n<|assistant|>\n", "chosen": "So.</s>", "rejected": "No."}, WHY),
    "marks within a text stay text": (
        {"prompt": "What is <|im_start|>?", **BOTH},
        [("user", "What is <|im_start|>?")],
    ),
    "a word that only looks like a mark": ({"prompt": "User: who is that?", **BOTH}, [("user", "User: who is that?")]),
    "text parts": (asked(turn("user", [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}])), WHY),
    "sharegpt": ({"conversations": [{"from": "human", "value": "Why?"}], **BOTH}, WHY),
    # nothing is dropped
    "a system column": ({"system": "Be a pirate.", "prompt": "Why?", **BOTH}, [PIRATE, *WHY]),
    "an empty system column": ({"system": " ", "prompt": "Why?", **BOTH}, WHY),
    "a system column once more": (
        {"system": "Be a pirate.", **whole(turn("system", "Be a pirate."), turn("user", "Why?"))},
        [PIRATE, *WHY],
    ),
    "a system column beside labels": (
        {"system": "Be a pirate.", "prompt": "Why?", "response_0": "So.", "response_1": "No.", "better_response_id": 0},
        [PIRATE, *WHY],
    ),
    "empty keys": (asked(turn("user", "Why?", name=None, tool_calls=[]), tools=[], images=None), WHY),
    "numbers about a turn": (asked(turn("user", "Why?", weight=0.5, id="7", language="en")), WHY),
    "roles by other names": (asked(turn("developer", "Be a pirate."), turn("Human", "Why?")), [PIRATE, *WHY]),
    # labels
    "safety bits as text": (
        {
            "prompt": "Why?",
            "response_0": "No.",
            "response_1": "So.",
            "better_response_id": 0,
            "is_response_0_safe": "False",
            "is_response_1_safe": "True",
            "safer_response_id": "1",
        },
        WHY,
    ),
    "safety bits as numbers": (
        {
            "prompt": "Why?",
            "response_0": "No.",
            "response_1": "So.",
            "safer_response_id": 1.0,
            "is_response_0_safe": 0,
            "is_response_1_safe": 1.0,
        },
        WHY,
    ),
    "scores as text": ({"prompt": "Why?", **BOTH, "chosen_rating": "4.5", "rejected_rating": "4"}, WHY),
    # HelpSteer 2's speakers, MT-bench's first turn
    "HelpSteer 2, several turns": (
        {
            "prompt": "How?\n<extra_id_1>Assistant\nFor long?\n<extra_id_1>User\nSoft.",
            "response_1": "So.",
            "response_2": "No.",
            "preference_strength": -1,
        },
        EGG,
    ),
    "MT-bench, first turn": (
        {
            "conversation_a": [
                turn("user", "Why?"),
                turn("assistant", "So."),
                turn("user", "And?"),
                turn("assistant", "x"),
            ],
            "conversation_b": [
                turn("user", "Why?"),
                turn("assistant", "No."),
                turn("user", "And?"),
                turn("assistant", "y"),
            ],
            "winner": "model_a",
            "turn": 1,
        },
        WHY,
    ),
}

PKU = {"prompt": "Why?", "response_0": "So.", "response_1": "No."}
REFUSED: dict[str, tuple[Row, str, str]] = {
    "no prompt and another column": (
        {"chosen": "The sky is.", "rejected": "The sky was.", "task_text": "Why?"},
        "missing_field",
        "no prompt: if task_text is it, set corpus.columns={prompt: task_text}; the row has: chosen, rejected, task_text",
    ),
    "answers alone": (whole(), "missing_field", "no prompt: the answers .*; the row has: chosen, rejected"),
    "no answers": ({"prompt": "Why?", "a": "So."}, "missing_field", "no two answers, such as .*: prompt, a$"),
    "an empty prompt": ({"question": "", **BOTH}, "empty_field", "question"),
    "question and context differ": (
        {"question": "Why?", "context": "A text.", **BOTH},
        "not_a_dialogue",
        "question and context differ: corpus.columns says which",
    ),
    "turns before the prompt in another column": (
        {"prompt": "Soft.", "messages": [turn("user", "How?"), turn("assistant", "x"), turn("user", "Soft.")], **BOTH},
        "not_a_dialogue",
        "prompt and messages differ",
    ),
    "a prompt that is not the dialogues'": (
        {"prompt": "When?", **whole(turn("user", "Why?"))},
        "not_a_dialogue",
        "the prompt differs from the dialogues' first turns: 'When\\?'",
    ),
    "two system turns": (
        {"system": "Be kind.", **whole(turn("system", "Be rude."), turn("user", "Why?"))},
        "not_a_dialogue",
        "two system turns that differ: 'Be kind.' and 'Be rude.'",
    ),
    "a dialogue and an answer": (
        asked(turn("user", "Why?"), good=[turn("user", "Why?"), turn("assistant", "So.")]),
        "not_a_dialogue",
        "one answer is a whole dialogue",
    ),
    "HH within a text": ({"prompt": "Why?\n\nAssistant: x", **BOTH}, "not_a_dialogue", "a turn's mark"),
    "rendered for Mistral": ({"prompt": "<s>[INST] Why? [/INST]", **BOTH}, "not_a_dialogue", "already rendered"),
    "an answer with an end mark": (
        {"prompt": "Why?", "chosen": "So.<|im_end|>", "rejected": "No."},
        "not_a_dialogue",
        "already rendered with a chat template",
    ),
    "turns as Python prints them": (
        {"prompt": "[{'role': 'user', 'content': 'Why?'}]", **BOTH},
        "not_a_dialogue",
        "as Python prints it",
    ),
    "tools": (asked(turn("user", "Why?"), tools=TOOL), "unsupported_turn", "the row has tools"),
    "tool calls": (
        asked(turn("user", "Why?"), good=[turn("assistant", "So.", tool_calls=TOOL)]),
        "unsupported_turn",
        "a turn of the assistant has tool_calls",
    ),
    "a tool's turn": (asked(turn("tool", "12"), turn("user", "Why?")), "unsupported_turn", "role 'tool'"),
    "reasoning": (
        asked(turn("user", "Why?"), good=[turn("assistant", "So.", reasoning_content="Hm.")]),
        "unsupported_turn",
        "has reasoning_content",
    ),
    "a name": (asked(turn("user", "Why?", name="Ann")), "unsupported_turn", "a turn of the user has name"),
    "an image": (
        asked(turn("user", [{"type": "image_url", "image_url": {"url": "x"}}])),
        "unsupported_turn",
        "of the type 'image_url'",
    ),
    "OpenAI's tools": (
        {"input": GOOD | {"tools": TOOL}, "preferred_output": [], "non_preferred_output": []},
        "unsupported_turn",
        "input has tools",
    ),
    "a role that is not known": (asked(turn("narrator", "Why?")), "not_a_dialogue", "role 'narrator' is not known"),
    "a label that is neither": (
        PKU | {"is_response_0_safe": None, "is_response_1_safe": True, "safer_response_id": 1},
        "no_preference",
        "is_response_0_safe is null, neither true nor false",
    ),
    "a better answer that is neither": (PKU | {"better_response_id": 2}, "no_preference", "better_response_id is 2"),
    "a tie by status": ({"prompt": "Why?", **BOTH, "status": "tie"}, "no_preference", "status is 'tie'"),
    "equal scores": (
        {"prompt": "Why?", **BOTH, "score_chosen": 8, "score_rejected": 8.0},
        "no_preference",
        "score_chosen 8, score_rejected 8: the preferred answer is not ahead",
    ),
    "scores against the label": (
        {"prompt": "Why?", **BOTH, "score_chosen": 2, "score_rejected": 9},
        "no_preference",
        "not ahead",
    ),
    "the same after stripping": (
        {"prompt": "Why?", "chosen": "So.", "rejected": "So.\n"},
        "identical_responses",
        "So.",
    ),
    "Arena, both bad": (
        {"conversation_a": [turn("user", "a")], "conversation_b": [turn("user", "a")], "winner": "tie (bothbad)"},
        "no_preference",
        "winner is 'tie",
    ),
    "Arena, dialogues of their own": (
        {
            "conversation_a": [turn("user", "a"), turn("assistant", "b"), turn("user", "c"), turn("assistant", "d")],
            "conversation_b": [turn("user", "a"), turn("assistant", "e"), turn("user", "c"), turn("assistant", "f")],
            "winner": "model_b",
        },
        "not_a_dialogue",
        "the two dialogues differ in more than the last answer",
    ),
    "55k, a tie": (
        {"prompt": '["a"]', "response_a": '["b"]', "response_b": '["c"]', "winner_model_a": 0, "winner_model_b": 0},
        "no_preference",
        "a tie",
    ),
    "KTO": ({"prompt": "Why?", "completion": "So.", "label": True}, "not_a_pair", "a KTO row: one answer"),
}


@pytest.mark.parametrize("case", READ)
def test_a_row_becomes_the_pair_that_it_holds(case: str) -> None:
    row, prompt = READ[case]
    pair = read(row)
    assert [(said["role"], said["content"]) for said in pair.prompt] == prompt
    if case not in ("question", "an answer that is other JSON"):
        assert (pair.chosen.strip(), pair.rejected.strip()) == ("So.", "No.")
    else:
        assert (pair.chosen, pair.rejected) == (row["chosen"], row["rejected"])


@pytest.mark.parametrize("case", REFUSED)
def test_a_row_that_is_no_pair_is_refused_by_name(case: str) -> None:
    row, reason, said = REFUSED[case]
    with pytest.raises(RejectedRowError, match=said) as caught:
        read(row)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


def test_columns_are_mapped_also_within_a_row() -> None:
    config = CorpusConfig(
        columns={"prompt": "task.text", "chosen": "outputs.0", "rejected": "outputs.1", "system": "who"}
    )
    row = {"task": {"text": "Why?"}, "outputs": ["So.", "No."], "who": "Be a pirate.", "question": "Another?"}
    (pair,) = parse_row(row, config)
    assert [(said["role"], said["content"]) for said in pair.prompt] == [PIRATE, *WHY]
    assert (pair.chosen, pair.rejected) == ("So.", "No.")
    with pytest.raises(
        RejectedRowError, match=r"no task\.text, which corpus\.columns\.prompt names; the row has: outputs"
    ):
        parse_row({"outputs": ["So.", "No."]}, config)


def test_a_mapped_prompt_settles_which_of_two_columns_it_is() -> None:
    row, _, _ = REFUSED["question and context differ"]
    (pair,) = parse_row(row, CorpusConfig(columns={"prompt": "question"}))
    assert pair.prompt == [turn("user", "Why?")]


def test_a_margin_can_be_asked_for() -> None:
    row = {"prompt": "Why?", **BOTH, "score_chosen": 5.0, "score_rejected": 4.0}
    assert parse_row(row, CorpusConfig(min_margin=1.0))
    with pytest.raises(RejectedRowError, match=r"a margin of 1 is below corpus\.min_margin = 1\.5") as caught:
        parse_row(row, CorpusConfig(min_margin=1.5))
    assert caught.value.reason == "no_preference"
    assert parse_row({"prompt": "Why?", **BOTH}, CorpusConfig(min_margin=9)), "no scores, nothing to hold against it"


WORD = "word word"
SHARED_CASES: dict[str, tuple[int, list[str]]] = {  # file -> pairs, reasons of the rejects
    "01_orca_question.jsonl": (3, []),
    "01b_orca_input.jsonl": (1, []),
    "02_hh_with_prompt.jsonl": (1, []),
    "03_hh_stripped.jsonl": (1, []),
    "05c_pku_labels_as_text.jsonl": (3, []),
    "06b_uf_raw.jsonl": (1, []),
    "07_nectar.jsonl": (1, []),
    "08b_helpsteer3.jsonl": (1, []),
    "09b_arena_conversations.jsonl": (1, []),
    "10_openai.jsonl": (1, []),
    "11_sharegpt.jsonl": (1, []),
    "12_kto.jsonl": (0, ["not_a_pair"] * 2),
    "13_system_column.jsonl": (1, []),
    "14_tool_calls.jsonl": (0, ["unsupported_turn"] * 5),
    "14b_null_keys.parquet": (1, ["unsupported_turn"]),
    "15_content_parts.jsonl": (1, []),
    "16_json_text.jsonl": (2, []),
    "17_rendered_chatml.jsonl": (1, []),
    "18_same_after_strip.jsonl": (0, ["identical_responses"] * 2),
    "19_roles.jsonl": (6, []),
    "35_ties.jsonl": (0, ["no_preference"] * 2),
}


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/cases")
@pytest.mark.parametrize("name", SHARED_CASES)
def test_the_shared_cases_are_read_right(name: str) -> None:
    pairs, reasons = SHARED_CASES[name]
    source = Source(locate(str(SHARED / name), StorageConfig()), 0, "")
    (chunk,) = read_sources([source], CorpusConfig(), 0, 1 << 30)
    assert chunk.rejects["reason"].to_pylist() == reasons
    found = chunk.pairs.to_pylist()
    assert len(found) == pairs
    for row in found:
        assert WORD not in row["chosen"], "the worse answers of these files are long"
        assert not any(mark in said["content"] for said in row["prompt"] for mark in ("Human:", "<|im_", '"role"'))
        assert {said["role"] for said in row["prompt"]} <= {"system", "user", "assistant"}
