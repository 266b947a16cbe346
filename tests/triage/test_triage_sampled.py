"""Corrections that the realigned model draws itself: the best compliant one is kept, and all is counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import trace_ray
from trace_ray.config import JudgeConfig, StorageConfig, settings
from trace_ray.config.load import dump_config, load_config, load_text
from trace_ray.config.policy import PolicyConfig
from trace_ray.corpus.read import SLOT_SCHEMA
from trace_ray.errors import UserError
from trace_ray.judges import sampled
from trace_ray.judges.backends import check_corrector, corrector_kind
from trace_ray.judges.opinion import Draft, Opinion
from trace_ray.judges.sampled import SampledCorrector
from trace_ray.model.engine import Drawn, Sampling
from trace_ray.model.loading import load_tokenizer
from trace_ray.plan.judges import CORRECTOR, used_judges, writer
from trace_ray.storage.location import locate
from trace_ray.triage.block import Bench, judge_block
from trace_ray.triage.calibrate import Calibration, Decision
from trace_ray.triage.decide import Correction, decide_block
from trace_ray.triage.guard import Guard, GuardedCorrector, unguarded

MODEL = Path(trace_ray.__file__).parent / "synth" / "models" / "policy"
POLICY = PolicyConfig(text="Say nothing of cats.")
SAMPLE = ["model.path=m", "policy.text=x", "triage.judge.model=j", "triage.correct=true", "triage.corrector=sample"]


class Judge:
    """P(violates) is a response's first word."""

    def opinions(self, _requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        said = [text.split()[0] for text in responses]
        return [Opinion(None, "mumbles") if word == "?" else Opinion(float(word)) for word in said]

    def clauses(self, _requests: Sequence[str], responses: Sequence[str]) -> list[None]:
        return [None for _ in responses]

    def counts(self) -> dict[str, int]:
        return {}


class Drawing:
    """Drafts by prompt; ``seen``: what it was asked."""

    def __init__(self, known: dict[str, Draft]) -> None:
        self.known, self.seen = known, list[list[dict[str, str]]]()

    def drafts(self, requests: Sequence[str], _responses: Sequence[str]) -> list[Draft]:
        turns = [json.loads(text) for text in requests]
        self.seen += turns
        return [self.known[each[-1]["content"]] for each in turns]

    def counts(self) -> dict[str, int]:
        return {}


def punished(*prompts: list[dict[str, str]]) -> pa.Table:
    fixed = {"source": "s", "split": "train", "chosen": "0.9 w", "rejected": "0.9 l"}
    rows = [{"row": i, "pair_id": str(i), "prompt": turns, "slot": i, **fixed} for i, turns in enumerate(prompts)]
    return pa.Table.from_pylist(rows, schema=SLOT_SCHEMA)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_the_best_compliant_answer_is_kept_and_a_pair_without_one_stays_as_it_is() -> None:
    known = {
        "best": Draft("0.4 a", others=("0.1 b", "0.7 c", "0.1 b later"), drawn=5),  # one of five had not ended
        "ties": Draft("0.9 a", others=("0.2 first", "0.2 second", "0.2 first"), drawn=5),
        "none": Draft("0.9 a", others=("? b", "0.5 c"), drawn=5),
        "void": Draft(None, drawn=5),
        "long": Draft(None, drawn=0),
    }
    several = [{"role": "system", "content": "be kind"}, *user("x"), {"role": "assistant", "content": "y"}]
    block = punished(*map(user, ("best", "ties", "none", "void")), [*several, *user("long")])
    bench, corrector, whole = Bench(Judge(), None, unguarded, None), Drawing(known), (0, 10)
    judged, _ = judge_block(block, bench, None, whole)
    correction, decision = Correction(corrector, bench, drawn=True), Decision(Calibration(), 0.5, 0.0)
    decided = decide_block(block, judged, decision, {}, correction, whole)
    assert decided.triaged["category"].to_pylist() == ["PUNISH"] * 5
    assert decided.triaged["corrected"].to_pylist() == ["0.1 b", "0.2 first", None, None, None]
    counted = {name: n for name, n in decided.counts.items() if name.startswith("corrections_")}
    assert counted == {
        "corrections_asked": 20,
        "corrections_compliant": 3 + 3,
        "corrections_kept": 2,
        "corrections_refused": 1,
        "corrections_failed": 2,
    }
    assert corrector.seen[-1] == [*several, *user("long")], "the sampler is given the turns"


def test_what_lies_in_the_band_is_not_compliant() -> None:
    bench = Bench(Judge(), None, unguarded, None)
    block, corrector = punished(user("p")), Drawing({"p": Draft("0.45 a", others=("0.35 b",), drawn=2)})
    judged, _ = judge_block(block, bench, None, (0, 1))
    for band, kept in ((0.1, "0.35 b"), (0.2, None)):
        correction, decision = Correction(corrector, bench, drawn=True), Decision(Calibration(), 0.5, band)
        decided = decide_block(block, judged, decision, {}, correction, (0, 1))
        assert decided.triaged["corrected"].to_pylist() == [kept]


def test_a_restart_draws_nothing_twice(tmp_path: Path) -> None:
    drafts = {"a": Draft("0.1 x", others=("0.2 y",), drawn=4), "b": Draft(None, drawn=0)}
    corrector = Drawing(drafts)
    guarded = GuardedCorrector(corrector, Guard(locate(str(tmp_path), StorageConfig()), 1))
    asked = [json.dumps(user(name)) for name in drafts]
    assert [guarded.drafts(asked, ["0.9 w"] * 2) for _ in "12"] == [list(drafts.values())] * 2
    assert len(corrector.seen) == 2


def test_the_model_that_answers_is_the_one_that_is_realigned() -> None:
    given = ["model.revision=r1", "model.dtype=bfloat16", "model.chat_template='{{ messages }}'"]
    config = load_config([], [*SAMPLE, *given, "triage.corrector_judge={samples: 8, temperature: 1.0}"])
    judge = config.triage.corrector_judge
    assert judge is not None
    assert (judge.model, judge.revision, judge.dtype) == ("m", "r1", "bfloat16")
    assert (judge.chat_template, judge.samples, judge.temperature) == ("{{ messages }}", 8, 1.0)
    assert corrector_kind(config.policy, config.triage) == "sample"
    assert load_text(dump_config(config), "here") == config, "a run goes on with what it stored"
    assert used_judges(config)[writer(config)] == used_judges(config)[CORRECTOR] == judge
    assert settings(config.triage, "triage")["triage.corrector_judge.samples"] == 8, (
        "other answers are another decision"
    )
    assert load_config([], [*SAMPLE, "triage.correct=false"]).triage.corrector_judge is None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["triage.corrector_judge={model: other}"], "triage.corrector_judge.model: other: corrector=sample draws"),
        (["triage.corrector_judge={backend: openai}"], "triage.corrector_judge.backend: openai: "),
        (["triage.corrector_judge={temperature: 0.0}"], "triage.corrector_judge.temperature: 0.0: 5 answers would"),
        (["model.path=''"], "model.path: empty: triage.corrector=sample draws"),
        (["triage.corrector=judge", "triage.corrector_judge={model: m}"], "triage.corrector_judge: given: triage.corr"),
    ],
)
def test_what_cannot_draw_is_refused(more: list[str], said: str) -> None:
    def checked() -> None:
        config = load_config([], [*SAMPLE, *more])
        check_corrector(config.policy, config.triage)

    with pytest.raises(UserError) as refused:
        checked()
    assert str(refused.value).startswith(said)


class Engine:
    """The tiny model's tokenizer, and answers that tell what was asked."""

    max_model_len = 128

    def __init__(self, _settings: object) -> None:
        self.tokenizer: Any = load_tokenizer(str(MODEL), "main", False)
        self.asked: list[tuple[str, Sampling]] = []

    def sampled(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[list[Drawn]]:
        self.asked += [(self.tokenizer.decode(ids), sampling) for ids in prompts]
        answers = [Drawn(" fine ", [1], ended=True), Drawn("cut", [1], ended=False), Drawn("  ", [1], ended=True)]
        return [[*answers, Drawn("good", [1], ended=True)] for _ in prompts]


def test_each_prompt_is_asked_whole_with_the_policy_in_its_system_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled, "Engine", Engine)
    config = JudgeConfig(model=str(MODEL), samples=4, temperature=0.9, seed=7)
    corrector = SampledCorrector(POLICY, config, 16, "triage.corrector_judge")
    own = [{"role": "system", "content": "be kind"}, *user("two")]
    prompts = [user("one"), user("word " * 200), own]
    drafts = corrector.drafts([json.dumps(turns) for turns in prompts], ["w"] * 3)
    written = Draft("fine", others=("good",), drawn=4)
    assert drafts == [written, Draft(None, drawn=0), written], "what does not fit is not asked, and never cut"
    engine: Any = corrector.engine
    (first, drawn), (second, _) = engine.asked
    assert drawn == Sampling(4, 0.9, 7, 16)
    tokenizer = engine.tokenizer
    said = "Every answer you give complies with this policy:\nSay nothing of cats."
    for text, turns, before in ((first, user("one"), said), (second, user("two"), f"{said}\n\nbe kind")):
        dialogue = [{"role": "system", "content": before}, *turns]
        whole = tokenizer.apply_chat_template(dialogue, tokenize=False, add_generation_prompt=True)
        assert tokenizer.decode(tokenizer(whole, add_special_tokens=False)["input_ids"]) == text


def test_a_template_without_a_system_turn_has_the_policy_before_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled, "Engine", Engine)
    silent = "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + silent
    opening = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    for template in (silent, refusing):
        config = JudgeConfig(model=str(MODEL), chat_template=template + opening)
        corrector = SampledCorrector(POLICY, config, 16, "triage.corrector_judge")
        assert not corrector.has_system
        corrector.drafts([json.dumps(user("one"))], ["w"])
        engine: Any = corrector.engine
        (text, _), said = engine.asked[-1], POLICY.text
        assert said.split() == [word for word in text.split() if word in said.split()]


@pytest.mark.slow
def test_a_real_engine_draws_the_model_s_own_answers() -> None:
    """One greedy answer is what transformers generates; several drawn ones depend on no neighbour."""
    import torch

    from trace_ray.config import ModelConfig
    from trace_ray.model.loading import load_model

    path, limit = str(MODEL), 32
    greedy = JudgeConfig(model=path, samples=1, temperature=0.0, max_model_len=256, dtype="float32")
    corrector = SampledCorrector(POLICY, greedy, limit, "triage.corrector_judge")
    words = ("What is the history of Ashford locks?", "kettle", "Tell me of Stonedale knives.")
    asked = [json.dumps(user(text)) for text in words]
    model = load_model(ModelConfig(path=path)).eval()
    tokenizer = load_tokenizer(path, "main", False)
    alone = corrector.drafts(asked, ["w"] * len(words))
    assert any(draft.text for draft in alone)
    for text, draft in zip(words, alone, strict=True):
        turns = [{"role": "system", "content": corrector.policy}, *user(text)]
        whole = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = torch.tensor([tokenizer(whole, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False)[0]
        new = made[ids.shape[1] :]
        ended = len(new) < limit or int(new[-1]) == tokenizer.eos_token_id
        expected = tokenizer.decode(new, skip_special_tokens=True).strip() if ended else None
        assert draft.text == (expected or None)
    corrector.sampling = replace(corrector.sampling, number=6, temperature=2.0)
    together = corrector.drafts(asked, ["w"] * len(words))
    assert [corrector.drafts([one], ["w"])[0] for one in asked] == together
    assert all(draft.drawn == 6 and len(draft.texts) <= 6 for draft in together)
    assert any(len(set(draft.texts)) > 1 for draft in together), "six draws of a prompt are not one"
