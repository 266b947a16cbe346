"""An evaluation without vLLM and Ray: known answers, judged in this process by judges that another package would bring.

tests/ray/test_audited_answers.py has both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support.brought_judges import ASKED, HERE
from trace_ray.config import Config, EvaluateConfig, JudgeConfig, ModelConfig, StorageConfig, TriageConfig
from trace_ray.config.policy import PolicyConfig
from trace_ray.evaluate import stage
from trace_ray.evaluate.answering import Chunk, write_part
from trace_ray.pairs import TRIAGED_SCHEMA
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate
from trace_ray.synth.demo import MODELS as SHIPPED
from trace_ray.triage.labelling.answers import of_answers

PROMPTS, PAIRS = 40, 30
BAD = {"base": 7, "realigned": 3}
"""Of ten prompts, how many a model answers badly."""
GENERATED: list[str] = []
"""Chunks that were answered."""


def answer(model: str, i: int) -> str:
    return f"answer {model} {i} {'BAD' if i % 10 < BAD[model] else 'good'}"


class Answering:
    """Takes vLLM's place: answers that are known."""

    def __init__(self, _config: Config, _merged: Any, out: Any) -> None:
        self.out = out

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        chunk: Chunk = item["chunk"]
        GENERATED.append(chunk.name)
        rows = [
            {name: row[name] for name in ("pair_id", "source", "category")}
            | {"prompt": row["prompt"][0]["content"], "model": chunk.model}
            | {"response": answer(chunk.model, int(row["pair_id"].removeprefix("test")))}
            for row in chunk.prompts
        ]
        write_part(self.out / chunk.name, rows, 0)
        return {"chunk": chunk.name, "rows": len(rows), "traffic": "{}"}


def pooled_here(
    worker: Any, arguments: Any, items: list[dict[str, Any]], _pool: JudgeConfig
) -> Iterator[dict[str, Any]]:
    if items:
        yield from map(worker(*arguments), items)


def trained_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Returns a run that ``run_evaluate`` evaluates in this process.

    It has 30 pairs of the corpus, every other chosen one BAD, and 40 held-out prompts.
    """
    ASKED.clear()
    GENERATED.clear()
    monkeypatch.setattr(stage, "ensure_ray", lambda _config: None)
    monkeypatch.setattr(stage, "pooled", pooled_here)
    monkeypatch.setattr(stage, "Generator", Answering)
    made = Run(locate(str(folder), StorageConfig()))
    made.triaged.begin({})
    rows = [triaged("train", i) for i in range(PAIRS)] + [triaged("test", i) for i in range(PROMPTS)]
    (made.triaged.place / "part-0.parquet").write_parquet(pa.Table.from_pylist(rows, schema=TRIAGED_SCHEMA))
    made.triaged.publish(counts={}, seconds=0.0, decision={"threshold": 0.5})
    made.model.begin({})
    made.model.publish(counts={}, seconds=0.0)
    return made


def triaged(split: str, i: int) -> dict[str, Any]:
    asked = {"pair_id": f"{split}{i}", "prompt": [{"role": "user", "content": f"q {split} {i}"}], "split": split}
    texts = {"chosen": f"chosen {i} {'BAD' if i % 2 else 'good'}", "rejected": f"rejected {i} good"}
    return asked | texts | {"source": "ab"[i % 2], "category": "INVERT" if i % 2 else "RETAIN"}


def config_of(judge: str, **evaluate: Any) -> Config:
    asked = JudgeConfig(backend=f"{HERE}:{judge}", model=judge.lower())
    given = EvaluateConfig(judge=asked, drift_pairs=0, resamples=100, **{"min_canary_pass": 0.0} | evaluate)
    policy = PolicyConfig(name="p", text="Nothing is BAD.")
    other = TriageConfig(judge=JudgeConfig(model="judge/of/triage"))
    return Config(policy=policy, model=ModelConfig(path=str(SHIPPED / "policy")), triage=other, evaluate=given)


def of_corpus(folder: Path, _run: Run) -> str:
    """Labels of the corpus' 30 pairs by the truth."""
    return written(folder, [label(f"train{i}", i % 2 == 1, False) for i in range(PAIRS)])


def of_the_answers(folder: Path, run: Run) -> str:
    """Labels, by the truth, of 30 prompts' answers as `trace-ray label answers` draws them: 15 corpus pairs beside them."""
    pairs = of_answers(run, 30, 0)
    assert len(pairs) == 30
    mine = [label(pair.pair_id, "BAD" in pair.chosen, "BAD" in pair.rejected) for pair in pairs]
    return written(folder, [*mine, *(label(f"train{i}", i % 2 == 1, False) for i in range(15))])


def label(pair: str, chosen: bool, rejected: bool) -> dict[str, Any]:
    said = {"pair_id": pair, "violates_chosen": chosen, "violates_rejected": rejected}
    return said | {"clauses_chosen": ["first"] if chosen else [], "clauses_rejected": ["second"] if rejected else []}


def written(folder: Path, rows: list[dict[str, Any]]) -> str:
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "labels.jsonl")


def metrics_of(run: Run) -> dict[str, Any]:
    return dict(json.loads((run.evaluation.place / "metrics.json").read_text()))


def answers_asked() -> int:
    return sum(number for text, number in ASKED.items() if text in ALL)


ALL = {answer(model, i) for model in BAD for i in range(PROMPTS)}
