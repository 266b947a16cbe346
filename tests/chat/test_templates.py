"""Every chat template of trl, and of other kinds: prompt and answer join to what the template itself writes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chat.written import TEMPLATES, TRL, tokenizer
from trace_ray.chat.text import ChatTokenizer, RefusedText, TokenizedPair
from trace_ray.config import JudgeConfig, ModelConfig
from trace_ray.errors import UserError
from trace_ray.judges.frames import frame_tokens
from trace_ray.judges.prompt import JUDGED

USER = {"role": "user", "content": "Where is the harbour?"}
DIALOGUES = {
    "question": [USER],
    "dialogue": [USER, {"role": "assistant", "content": "Here."}, {"role": "user", "content": " And\nnow? \n"}],
    "system": [{"role": "system", "content": "Be kind."}, USER],
}
ANSWERS = ("Yes, 7 of them.", "  on both sides \n\n", 'two\n\nlines, "quoted" <b>')
ALL = {path.stem: path.read_text(encoding="utf-8") for path in sorted(TRL.glob("*.jinja"))} | TEMPLATES
WITHOUT_SYSTEM = {"gemma", "gemma_training", "instruct v1", "instruct, trimmed"}


def written(chat: ChatTokenizer, turns: Any, answer: str, **more: Any) -> Any:
    """What the template itself makes of the whole dialogue."""
    whole = [*turns, {"role": "assistant", "content": answer}]
    if chat.template.parts:
        whole = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in whole]
    return chat.tokenizer.apply_chat_template(whole, **chat.template.variables, **more)


def one_pair(chat: ChatTokenizer, turns: Any, answer: str) -> TokenizedPair | RefusedText:
    (pair,) = chat.pairs([turns], [{"chosen": answer}])
    return pair


@pytest.mark.parametrize("dialogue", DIALOGUES)
@pytest.mark.parametrize("name", ALL)
def test_prompt_and_answer_are_the_template_s_own_rendering(name: str, dialogue: str) -> None:
    chat, turns = ChatTokenizer(tokenizer(ALL[name]), 4096), DIALOGUES[dialogue]
    for answer in ANSWERS:
        pair = one_pair(chat, turns, answer)
        if isinstance(pair, RefusedText):
            assert name in WITHOUT_SYSTEM
            assert dialogue == "system"
            continue
        whole = written(chat, turns, answer, tokenize=False)
        ids, mine = chat.tokens.ids([whole])[0], pair.prompt_ids + pair.response_ids["chosen"]
        own_end = bool(chat.template.join.end.strip())  # else the end-of-text token is ours
        assert mine[: None if own_end else -1] == ids[: len(mine) - (not own_end)]
        if own_end:
            assert not chat.tokenizer.decode(ids[len(mine) :]).strip()
        assert chat.prompts([turns]) == [pair.prompt_ids]  # generation reads the same


@pytest.mark.parametrize("name", [name for name in ALL if name.endswith("_training")])
def test_the_mask_is_the_one_that_the_template_tells(name: str) -> None:
    """Those templates mark what an assistant generates; they differ in whether its turn's own marks are part of it."""
    chat, answer = ChatTokenizer(tokenizer(ALL[name]), 4096), "Yes, 7 of them."
    pair = one_pair(chat, [USER], answer)
    assert isinstance(pair, TokenizedPair)
    found = written(chat, [USER], answer, return_dict=True, return_assistant_tokens_mask=True)
    theirs, ids = {place for place, own in enumerate(found["assistant_masks"]) if own}, found["input_ids"]
    ours = set(range(len(pair.prompt_ids), len(pair.prompt_ids) + len(pair.response_ids["chosen"])))
    said = {
        which: chat.tokenizer.decode([ids[place] for place in sorted(places) if place < len(ids)])
        for which, places in {"both": ours & theirs, "theirs": theirs, "ours": ours}.items()
    }
    assert answer in said["both"]
    assert USER["content"][:5] not in said["ours"] + said["theirs"]


def test_a_row_that_the_template_refuses_is_refused_alone() -> None:
    chat = ChatTokenizer(tokenizer(ALL["gemma"]), 4096)
    first, second, third = chat.pairs([[USER], DIALOGUES["system"], [USER]], [{"chosen": "Yes."}] * 3)
    assert isinstance(second, RefusedText)
    assert second.reason == "template_refuses"
    assert "System role not supported" in second.detail
    assert first == third == one_pair(chat, [USER], "Yes.")
    assert [isinstance(ids, RefusedText) for ids in chat.prompts([[USER], DIALOGUES["system"]])] == [False, True]


def test_thinking_is_off_unless_it_is_asked_for() -> None:
    made = tokenizer(ALL["qwen3_5_think"])
    off, on = (ChatTokenizer(made, 4096, ModelConfig(chat_template_kwargs=k)) for k in ({}, {"enable_thinking": True}))
    plain, thinking = one_pair(off, [USER], "Yes."), one_pair(on, [USER], "Yes.")
    assert isinstance(plain, TokenizedPair)
    assert isinstance(thinking, TokenizedPair)
    assert made.decode(plain.prompt_ids).endswith("<think>\n\n</think>\n\n")
    assert made.decode(thinking.prompt_ids).endswith("<think>\n")
    assert made.decode(plain.response_ids["chosen"]).startswith("Yes.")
    assert made.decode(thinking.response_ids["chosen"]).startswith("\n</think>\n\nYes.")
    thought = one_pair(on, [USER], "<think>\nhm\n</think>\n\nYes.")
    assert isinstance(thought, TokenizedPair)
    assert made.decode(thought.response_ids["chosen"]).startswith("hm\n</think>\n\nYes.")
    with_thoughts = one_pair(off, [USER], "<think>\nhm\n</think>\n\nYes.")
    assert isinstance(with_thoughts, RefusedText)
    assert "does not follow the prompt" in with_thoughts.detail


@pytest.mark.parametrize(
    ("asked", "end"), [({}, "<think>\n\n</think>\n\n"), ({"enable_thinking": True}, "<think>\n")], ids=str
)
def test_a_judge_is_asked_with_thinking_off_too(asked: dict[str, Any], end: str) -> None:
    """Its verdict is the first token of the answer: behind an empty block of thoughts, not in front of one."""
    made, judge = tokenizer(ALL["qwen3_5_think"]), JudgeConfig(chat_template_kwargs=asked)
    head, tail = frame_tokens(made, f"Does this violate the policy? {JUDGED} Yes or No?", "triage.judge", judge)
    assert "Does this violate the policy?" in made.decode(head)
    assert made.decode(tail).endswith(end)


def test_a_date_is_the_run_s() -> None:
    made = tokenizer(TEMPLATES["dated"])
    chats = [ChatTokenizer(made, 4096, ModelConfig(chat_template_date=day)) for day in ("2026-02-03", "2026-02-04")]
    first, other = (chat.prompts([[USER]])[0] for chat in chats)
    assert "Today is 03 Feb 2026" in made.decode(first)
    assert first != other


def test_what_a_template_trims_is_what_is_trained_on() -> None:
    made = tokenizer(TEMPLATES["instruct, trimmed"])
    (pair,) = ChatTokenizer(made, 4096).pairs([[USER]], [{"chosen": " Yes.\n", "rejected": "Yes."}])
    assert isinstance(pair, TokenizedPair)
    assert pair.response_ids["chosen"] == pair.response_ids["rejected"]
    assert made.decode(pair.response_ids["chosen"]) == " Yes. <|im_end|>"


@pytest.mark.parametrize(
    ("template", "eos", "kwargs", "said"),
    [
        (None, True, {}, "no chat template: give one, as text or as a file"),
        ({"tool_use": "x", "rag": "y"}, True, {}, "no default chat template; name one of rag, tool_use"),
        (TEMPLATES["no end"], False, {}, "give a chat_template that ends a turn with a mark"),
        ("{% for m in messages %}", True, {}, "is no jinja: line 1"),
        (ALL["qwen3"], True, {"enable_thinkin": True}, "did you mean 'enable_thinking'"),
        (ALL["deepseek_r1_distill"], True, {}, ""),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", True, {}, "drops, changes or repeats"),
        ("{{ messages | length }}: {% for m in messages %}{{ m.content }};{% endfor %}", True, {}, "give another"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_with_what_to_do(
    template: Any, eos: bool, kwargs: dict[str, Any], said: str
) -> None:
    made = tokenizer()
    made.chat_template = template
    if not eos:
        made.eos_token = None
    if not said:
        assert ChatTokenizer(made, 256).prompts([[USER]])
        return
    with pytest.raises(UserError, match=said):
        ChatTokenizer(made, 256, ModelConfig(chat_template_kwargs=kwargs))


def test_a_template_may_be_named_or_given() -> None:
    made = tokenizer()
    made.chat_template = {"rag": TEMPLATES["no end"], "chat": TEMPLATES["quoted"]}
    named, given = (
        ChatTokenizer(made, 256, ModelConfig(chat_template=template)) for template in ("rag", TEMPLATES["no end"])
    )
    assert named.prompts([[USER]]) == given.prompts([[USER]])
    with pytest.raises(UserError, match="no such file, and no jinja text, nor one of its own: chat, rag"):
        ChatTokenizer(made, 256, ModelConfig(chat_template="ragged"))
