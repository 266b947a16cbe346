"""A round's answers without cluster and model: prompts of several parts, a judge that is asked, a resume, a limit."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trace_ray.chat.text import RefusedText
from trace_ray.config import Config, CorpusConfig, ModelConfig, RoundsConfig, StorageConfig
from trace_ray.config.load import load_config
from trace_ray.errors import StaleRunError
from trace_ray.model.engine import Drawn, Sampling
from trace_ray.pairs import TRIAGED_SCHEMA, RejectReason, fitted, pair_id
from trace_ray.rounds import answering, stage
from trace_ray.rounds.own import PROMPTS
from trace_ray.rounds.stage import run_answers
from trace_ray.runs.artifacts import Run
from trace_ray.runs.rounds import round_run
from trace_ray.storage.location import locate

RULES = ["policy.clauses=[{id: brief, text: Be brief., rule: {max_words: 2}}]", "triage.judge.backend=rules"]
SIZES = {"part-block-000000.parquet": PROMPTS + 3, "part-block-000001.parquet": 1, "part-block-000002.parquet": 0}
"""Training prompts of each part."""


class Engine:
    """Answers by rule; counts what it was asked, and dies after ``left`` calls of ``generate``."""

    asked: list[str] = []  # noqa: RUF012 - of all engines of a test
    left = 1000

    def __init__(self) -> None:
        self.tokens = 0

    def generate(self, prompts: Sequence[str], limit: int) -> list[str]:
        assert limit == 7
        if Engine.left == 0:
            raise RuntimeError("the node is gone")
        Engine.left -= 1
        Engine.asked += prompts
        self.tokens += len(prompts)
        return ["" if text == "q1" else f"greedy of {text}" for text in prompts]

    def sampled(self, prompts: Sequence[str], sampling: Sampling) -> list[list[Drawn]]:
        assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.7, 0.9, 7)
        return [[drawn(text, i) for i in range(sampling.number)] for text in prompts]


def drawn(text: str, number: int) -> Drawn:
    """q2's are like its greedy answer, q3's are cut; of the others the third is brief and so complies."""
    said = {"q2": f"greedy of {text} "}.get(text, "short" if number == 2 else f"a long draw {number}")
    return Drawn(said, [], ended=text != "q3")


@dataclass
class Generator:
    """``evaluate.answering.Generator`` without a model; prompts are not put into tokens, and one is refused."""

    config: Config
    merged: None
    out: Any
    draws: bool

    def __post_init__(self) -> None:
        assert self.draws
        self.engine, self.limit, self.tokenizer = Engine(), self.config.evaluate.max_new_tokens, self

    def prompts(self, prompts: Sequence[Any]) -> list[str | RefusedText]:
        texts = [prompt[-1]["content"] for prompt in prompts]
        return [RefusedText(RejectReason.TEMPLATE_REFUSES, "no") if text == "q0" else text for text in texts]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A second round whose first one is triaged: each prompt stands in two training pairs, and three pairs are held out."""
    monkeypatch.setattr(answering, "Generator", Generator)
    monkeypatch.setattr(stage, "ensure_ray", lambda _config: None)
    monkeypatch.setattr(stage, "by_tasks", lambda function, some, *shared: (function(one, *shared) for one in some))
    monkeypatch.setattr(stage, "pooled", pooled)
    monkeypatch.setattr(Engine, "asked", [])
    monkeypatch.setattr(Engine, "left", 1000)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("w")
    first, start = Run(locate(str(tmp_path / "run"), StorageConfig())), 0
    first.triaged.begin({})
    for name, count in SIZES.items():
        rows = [row(f"q{i}", answer, "train") for i in range(start, start + count) for answer in ("one", "two")]
        rows += [row(f"held out {name}", "kept", "test")]
        (first.triaged.place / name).write_parquet(fitted(pa.Table.from_pylist(rows), TRIAGED_SCHEMA))
        start += count
    first.triaged.publish(counts={"test RETAIN": 3}, seconds=0.0)
    return round_run(first, 2)


def row(text: str, chosen: str, split: str) -> dict[str, Any]:
    prompt = [{"role": "user", "content": text}]
    made = {"prompt": prompt, "chosen": chosen, "rejected": "other", "source": "s", "category": "RETAIN"}
    return made | {"row": 0, "split": split, "pair_id": pair_id(prompt, chosen, "other")}


def pooled(worker: Callable[..., Any], arguments: Any, items: list[Any], _pool: object) -> Iterator[Any]:
    if items:
        made = worker(*arguments)
        yield from (made(item) for item in items)


def config_of(run: Run, **rounds: Any) -> Config:
    config = load_config([], [*RULES, "evaluate.max_new_tokens=7"])
    model = ModelConfig(path=str(Path(run.place.path).parents[2] / "model"))
    drawing = RoundsConfig(samples=3, temperature=0.7, top_p=0.9)
    return replace(config, model=model, corpus=CorpusConfig(), rounds=replace(drawing, **rounds))


def pairs(run: Run, split: str) -> list[dict[str, Any]]:
    files = sorted(Path(run.answers.place.path, split).glob("*.parquet"))
    return [found for file in files for found in pq.read_table(file).to_pylist()]


def texts(found: list[dict[str, Any]], name: str) -> list[str]:
    return [one[name][-1]["content"] for one in found]


def test_every_prompt_makes_a_pair_or_is_counted(run: Run) -> None:
    run_answers(run, config_of(run))
    every = sum(SIZES.values())
    manifest = run.answers.manifest()
    assert manifest["counts"] == {
        "prompts": every,
        "pairs": every - 4,
        "identical_answers": 1,
        "no_whole_sample": 1,
        "empty_answers": 1,
        "refused_prompts": 1,
        "held_out": 3,
    }
    made = pairs(run, "train")
    assert texts(made, "prompt") == [f"q{i}" for i in range(4, every)]
    assert texts(made, "chosen") == [f"greedy of q{i}" for i in range(4, every)]
    assert set(texts(made, "rejected")) == {"short"}, "the judge chose the one that complies"
    assert texts(pairs(run, "test"), "prompt") == [f"held out {name}" for name in SIZES]
    assert set(texts(pairs(run, "test"), "chosen")) == {"kept"}
    assert manifest["tokens"] == every - 1


def test_one_draw_is_taken_unjudged(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "SampleJudge", None)
    run_answers(run, config_of(run, samples=1))
    assert set(texts(pairs(run, "train"), "rejected")) == {"a long draw 0"}


def test_a_killed_round_makes_what_is_left(run: Run) -> None:
    Engine.left = 1
    with pytest.raises(RuntimeError, match="gone"):
        run_answers(run, config_of(run))
    first = list(Engine.asked)
    assert len(first) == PROMPTS - 1, "one prompt of the piece is refused"
    Engine.left = 1000
    run_answers(run, config_of(run))
    assert len(Engine.asked) == len(set(Engine.asked)) == sum(SIZES.values()) - 1
    whole = (pairs(run, "train"), pairs(run, "test"), run.answers.manifest()["counts"])
    asked = len(Engine.asked)
    run_answers(run, config_of(run))
    assert len(Engine.asked) == asked, "what is done is left alone"
    again = round_run(Run(locate(str(Path(run.place.path).parents[1]), StorageConfig())), 3)
    run_answers(again, replace(config_of(run)))
    assert whole == (pairs(again, "train"), pairs(again, "test"), again.answers.manifest()["counts"])


def test_a_limit_takes_some_prompts_of_all_parts(run: Run) -> None:
    run_answers(run, config_of(run, prompts=9))
    counts = run.answers.manifest()["counts"]
    assert counts["prompts"] == 9
    assert counts["held_out"] == 3
    left = sum(counts[name] for name in ("identical_answers", "no_whole_sample", "empty_answers", "refused_prompts"))
    assert len(pairs(run, "train")) == counts["pairs"] == 9 - left


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (lambda config: replace(config, rounds=replace(config.rounds, temperature=0.8)), "rounds.temperature"),
        (lambda config: replace(config, rounds=replace(config.rounds, seed=1)), "rounds.seed"),
        (lambda config: replace(config, policy=replace(config.policy, version="2")), "policy"),
        (lambda config: replace(config, evaluate=replace(config.evaluate, max_new_tokens=8)), "max_new_tokens"),
    ],
)
def test_answers_made_otherwise_are_refused(run: Run, changed: Callable[[Config], Config], named: str) -> None:
    run_answers(run, config_of(run))
    with pytest.raises(StaleRunError, match=named):
        run_answers(run, changed(config_of(run)))
    run_answers(run, replace(config_of(run), rounds=replace(config_of(run).rounds, number=7)))


def test_a_prompt_that_is_lost_is_no_success(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "collect_part", lambda *_: Counter[str]())
    with pytest.raises(RuntimeError, match=f"lost prompts: {sum(SIZES.values())} asked"):
        run_answers(run, config_of(run))
    assert not run.answers.done()
    assert json.loads((run.answers.place / "inputs.json").read_text())
