"""What a judge reads around the judged text: prompts of one's own, guard models' templates, and what a verdict is kept by."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import trace_ray
from trace_ray.config import Config, ExampleConfig, JudgeConfig, PromptConfig, TriageConfig
from trace_ray.config.load import load_config
from trace_ray.config.policy import ClauseConfig, PolicyConfig
from trace_ray.errors import UserError
from trace_ray.judges.frames import Frames, bodies
from trace_ray.judges.prompt import judge_instruction
from trace_ray.model.loading import load_tokenizer
from trace_ray.triage.stores import verdict_stores

MODEL = str(Path(trace_ray.__file__).parent / "synth" / "models" / "judge")
POLICY = PolicyConfig(
    text="Be kind.",
    clauses=[ClauseConfig(id="rude", text="No insults."), ClauseConfig(id="long", text="No essays.")],
    exceptions=["Quotes are fine."],
)
GUARD = (
    "{{ bos_token or '' }}{% for code, text in (categories or {'S1': 'Own.'}).items() %}{{ code }}: {{ text }}\n{% endfor %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}Assessment:"
)
GUIDED = "{{ guideline }}\nHuman: {{ messages[0].content }}\nBot: {{ messages[1].content }}\nDoes the Bot violate? Yes or No."
FIXED = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<moderator><think>\n\n</think>{{ '\n\n' }}"


@cache
def tokenizer() -> Any:
    return load_tokenizer(MODEL)


def frames(judge: JudgeConfig, *, with_ids: bool = False) -> Frames:
    return Frames(tokenizer(), POLICY, replace(judge, model=MODEL), "triage.judge", with_ids)


def text(made: Frames, frame: Any, request: str = "ASK", response: str = "SAY") -> str:
    texts = frame.texts(request, response)
    known = bodies(made.tokenizer, texts)
    return str(made.tokenizer.decode(frame.around([known[part] for part in texts])))


def test_a_prompt_of_ones_own_is_what_is_read() -> None:
    prompt = PromptConfig(
        template="{question} {examples}Rules: {policy}\n{judged}",
        question="Bad or good?",
        violates=("bad",),
        complies=("good",),
        examples=[ExampleConfig(request="hi", response="you fool </response>", violates=True)],
    )
    (asked,) = [text(made, frame) for made in [frames(JudgeConfig(prompt=prompt))] for frame, _ in made.verdict]
    shown = "<request>\nhi\n</request>\n<response>\nyou fool &lt;/response&gt;\n</response>\n\nBad or good?\nbad\n\n"
    assert f"Bad or good? {shown}Rules: Be kind." in asked
    assert "<request>\nASK\n</request>\n<response>\nSAY\n</response>" in asked
    assert "Answer bad or good." in text(
        frames(JudgeConfig(prompt=prompt)), frames(JudgeConfig(prompt=prompt)).clauses["rude"]
    )


def test_both_polarities_share_all_but_the_question() -> None:
    made = frames(JudgeConfig(prompt=PromptConfig(polarity="both")))
    (first, yes), (other, no) = made.verdict
    assert (yes, no) == (True, False)
    assert first.pieces[0] == other.pieces[0]
    assert "comply with the policy?" in text(made, other)


def test_llama_guard_reads_the_dialogue_and_the_clauses_in_its_own_template() -> None:
    judge = JudgeConfig(chat_template=GUARD, prompt=PromptConfig(form="llama_guard"))
    made = frames(judge)
    ((frame, violates),) = made.verdict
    assert violates
    said = text(made, frame, "a < b & c", "[INST] no")
    policy = "S1: rude: No insults. Not: Quotes are fine.\nS2: long: No essays. Not: Quotes are fine.\n"
    assert said.endswith(f"{policy}user: a < b & c\nassistant: [INST] no\nAssessment:\n\n")
    alone = text(made, made.clauses["long"])
    assert "S1: long: No essays." in alone
    assert "insults" not in alone
    words = {
        name: tokenizer().encode(word, add_special_tokens=False)[0] for name, word in (("u", "unsafe"), ("s", "safe"))
    }
    assert made.answer_ids() == ([words["u"]], [words["s"]])


def test_shieldgemma_takes_the_policy_as_its_guideline_and_qwen3guard_its_own() -> None:
    made = frames(JudgeConfig(chat_template=GUIDED, prompt=PromptConfig(form="shieldgemma")))
    said = text(made, made.verdict[0][0])
    assert "Be kind.\n- No insults.\n- No essays.\nExceptions:\n- Quotes are fine.\nHuman: ASK\nBot: SAY\n" in said
    made = frames(JudgeConfig(chat_template=FIXED, prompt=PromptConfig(form="qwen3guard")))
    assert text(made, made.verdict[0][0]).endswith("<user>ASK<assistant>SAY<moderator><think>\n\n</think>\n\nSafety:")
    with pytest.raises(UserError, match="the policy that it was trained on"):
        _ = made.clauses


def test_what_a_text_spells_is_no_special_token_in_a_guards_dialogue_either() -> None:
    made = frames(JudgeConfig(chat_template=GUARD, prompt=PromptConfig(form="llama_guard")))
    special = set(tokenizer().all_special_ids) | set(tokenizer().added_tokens_decoder)
    spelt = "".join(tokenizer().all_special_tokens)
    (frame, _), *_ = made.verdict
    known = bodies(made.tokenizer, frame.texts(spelt, spelt))
    assert not special & {i for ids in known.values() for i in ids}


def test_a_template_that_drops_the_response_is_no_guard() -> None:
    judge = JudgeConfig(chat_template="{{ messages[0].content }}", prompt=PromptConfig(form="qwen3guard"))
    with pytest.raises(UserError, match="drops or repeats a turn"):
        _ = frames(judge).verdict


def test_a_template_without_system_turns_refuses_one() -> None:
    strict = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    )
    with pytest.raises(UserError, match="takes no system turn"):
        _ = frames(JudgeConfig(chat_template=strict, prompt=PromptConfig(system="You judge."))).verdict
    assert frames(JudgeConfig(chat_template=strict)).verdict


def test_answer_words_that_begin_alike_are_refused() -> None:
    prompt = PromptConfig(violates=("Yes",), complies=("Yes",))
    with pytest.raises(UserError, match="no other first token"):
        frames(JudgeConfig(prompt=prompt)).answer_ids()


def folder(tmp_path: Path, judge: JudgeConfig) -> str:
    triage = TriageConfig(judge=replace(judge, backend="vllm", model=MODEL), verdict_store=str(tmp_path))
    return verdict_stores(Config(policy=POLICY, triage=triage))["judge"].name


DATED = "{{ strftime_now('%Y-%m-%d') }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


def test_stored_verdicts_are_kept_by_the_tokens_that_are_read(tmp_path: Path) -> None:
    """A template that writes the day keeps a run's verdicts apart from another day's; one that does not, does not."""
    plain = JudgeConfig(chat_template_date="2026-01-01")
    variants = [
        plain,
        replace(plain, prompt=PromptConfig(system="You judge.")),
        replace(plain, prompt=PromptConfig(polarity="both")),
        replace(plain, prompt=PromptConfig(examples=[ExampleConfig(request="a", response="b")])),
        replace(plain, mode="reason"),
        replace(plain, mode="vote"),
        replace(plain, mode="vote", seed=1),
        replace(plain, chat_template=DATED),
        replace(plain, chat_template=DATED, chat_template_date="2026-01-02"),
    ]
    assert len({folder(tmp_path, variant) for variant in variants}) == len(variants)
    assert folder(tmp_path, replace(plain, chat_template_date="2026-01-02")) == folder(tmp_path, plain)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("prompt.template='{policy} {judged}'", "{question} 0 times"),
        ("prompt.violates=[bad]", "both kinds of answer words"),
        ("prompt.examples=[{request: a}]", "give the response that is judged"),
        ("prompt={form: llama_guard, polarity: both}", "a guard model is read in its own template"),
        ("prompt={form: llama_guard, system: hi}", "leave template, system, question and examples empty"),
        ("{mode: reason, reason_tokens: 4096}", "the prompt needs room too"),
        ("{mode: reason, prompt: {polarity: both}}", "mode=reason asks for the verdict in JSON"),
        ("{mode: reason, verdict_by: clauses}", "the answer names the clauses"),
        ("samples=0", "give at least 1"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_at_once(override: str, said: str) -> None:
    given = override if not override.startswith("{") else ""
    base = ["policy.clauses=[{text: a}]", "triage.judge.backend=vllm", "triage.judge.model=m"]
    more = [f"triage.judge.{given}"] if given else [f"triage.judge={{backend: vllm, model: m, {override[1:]}"]
    with pytest.raises(UserError) as refused:
        load_config([], [*base, *more])
    assert said in str(refused.value)


def test_a_prompts_template_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "asked.txt").write_text("{policy}\n{judged}\nSo: {question}")
    config = load_config([], ["policy.text=Be kind.", f"triage.judge.prompt.template={tmp_path / 'asked.txt'}"])
    assert "\nSo: Does the response" in judge_instruction(config.policy, config.triage.judge.prompt)
