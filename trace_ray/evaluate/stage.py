"""Stage 4 on Ray Data: vLLM answers held-out prompts with base and realigned model, a judge decides compliance."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from trace_ray import metrics
from trace_ray.artifacts import Run
from trace_ray.cluster import ensure_ray
from trace_ray.config import Config, EvaluateConfig, JudgeConfig, settings
from trace_ray.errors import UserError
from trace_ray.evaluate.tpa import evaluation_metrics
from trace_ray.inference import Engine, EngineSettings
from trace_ray.judges.backends import make_judge
from trace_ray.pairs import RESPONSE_SCHEMA, Split, hash_fraction, prompt_text
from trace_ray.progress import Meter
from trace_ray.storage import Location, download_folder
from trace_ray.text import ChatTokenizer

METRICS, GENERATED, RESPONSES = "metrics.json", "generated", "responses"
MODELS = ("base", "realigned")
CHUNK_ROWS = 64
"""Prompts answered together, and lost together by a crash."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Chunk:
    """One model's answers to some held-out prompts: what one call of an actor does."""

    model: str
    index: int
    prompts: list[Row]

    @property
    def name(self) -> str:
        return f"part-{self.model}-{self.index:06d}.parquet"


def evaluate_inputs(run: Run, config: Config) -> dict[str, Any]:
    """Returns everything that the answers and their verdicts depend on."""
    merged: dict[str, Any] = {"model": run.model.manifest()["inputs_hash"]}
    return merged | settings(config.evaluate, "evaluate")


def run_evaluate(run: Run, config: Config) -> None:
    """Writes evaluation/: generated/, responses/ and metrics.json."""
    inputs = evaluate_inputs(run, config)
    started = time.monotonic()
    if not run.evaluation.begin(inputs):
        return
    place = run.evaluation.place
    prompts = held_out_prompts(run, config.evaluate.prompts)
    if not prompts:
        raise UserError("corpus.holdout", "no held-out prompt", "raise corpus.holdout or name corpus.test_paths")
    ensure_ray(config.ray)
    starts = range(0, len(prompts), CHUNK_ROWS)
    chunks = [Chunk(m, i, prompts[at : at + CHUNK_ROWS]) for m in MODELS for i, at in enumerate(starts)]
    for model in MODELS:
        mine = [chunk for chunk in chunks if chunk.model == model]
        arguments = (config, model, run.model.place / "merged", place / GENERATED)
        _run_pool(f"evaluate: {model}", Generator, arguments, mine, place / GENERATED, _generator_pool(config.evaluate))
    judging = (config, place / GENERATED, place / RESPONSES)
    _run_pool("evaluate: judge", AnswerJudge, judging, chunks, place / RESPONSES, config.evaluate.judge)
    rows = [row for part in (place / RESPONSES).files(".parquet") for row in part.read_parquet().to_pylist()]
    if len(rows) != len(MODELS) * len(prompts):
        raise RuntimeError(f"evaluate lost answers: {len(rows)} of {len(MODELS) * len(prompts)}")
    judge = config.evaluate.judge
    same = judge == config.triage.judge and judge.backend != "rules"
    facts = {"judge": judge.model or judge.backend, "judge_is_triage_judge": same}
    (place / METRICS).write_text(json.dumps(evaluation_metrics(rows) | facts, indent=1))
    counts = {"prompts": len(prompts), "responses": len(rows)}
    run.evaluation.publish(counts=counts, seconds=time.monotonic() - started, **facts)


def held_out_prompts(run: Run, limit: int) -> list[Row]:
    """Returns the distinct prompts of the test split with source and category; the first ``limit`` by hash, 0 = all."""
    table = run.triaged.read(["pair_id", "prompt", "source", "category", "split"])
    distinct: dict[str, Row] = {}
    for row in table.to_pylist():
        if row.pop("split") == Split.TEST:
            distinct.setdefault(json.dumps(row["prompt"]), row)
    rows = list(distinct.values())
    drawn = hash_fraction([row["pair_id"] for row in rows], 0)
    ordered = [row for _, _, row in sorted(zip(drawn, range(len(rows)), rows, strict=True))]
    return ordered[: limit or None]


def _generator_pool(config: EvaluateConfig) -> JudgeConfig:
    return JudgeConfig(num_cpus=config.num_cpus, num_gpus=config.num_gpus)


def _run_pool(label: str, actor: type, arguments: Any, chunks: list[Chunk], out: Location, pool: JudgeConfig) -> None:
    """Runs the chunks whose part is not yet in ``out`` through a pool of actors."""
    import ray.data

    finished = {part.name for part in out.files(".parquet")}
    todo = [chunk for chunk in chunks if chunk.name not in finished]
    with Meter(label, sum(len(c.prompts) for c in chunks), "answers") as meter:
        meter.skip(sum(len(c.prompts) for c in chunks if c.name in finished))
        if not todo:
            return
        dataset = ray.data.from_items([{"chunk": chunk} for chunk in todo], override_num_blocks=len(todo)).map(
            actor,
            fn_constructor_args=arguments,
            compute=ray.data.ActorPoolStrategy(min_size=pool.actors, max_size=pool.max_actors),
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus or None,
        )
        for row in dataset.iter_rows():
            meter.advance(row["rows"])


class Generator:
    """Ray Data actor: one model in vLLM, greedy answers."""

    def __init__(self, config: Config, model: str, merged: Location, out: Location) -> None:
        evaluate = config.evaluate
        self.out, self.limit = out, evaluate.max_new_tokens
        with ExitStack() as stack:
            path = config.model.path if model == "base" else stack.enter_context(download_folder(merged))
            self.engine = Engine(
                EngineSettings(
                    model=path,
                    revision=config.model.revision if model == "base" else "main",
                    dtype=config.model.dtype,
                    max_model_len=config.model.max_length + evaluate.max_new_tokens,
                    kv_cache_gib=evaluate.kv_cache_gib,
                    num_cpus=evaluate.num_cpus,
                    extra=tuple(evaluate.engine.items()),
                )
            )
        self.tokenizer = ChatTokenizer(self.engine.tokenizer, config.model.max_length)

    def __call__(self, item: Row) -> Row:
        chunk: Chunk = item["chunk"]
        answers = self.engine.generate(self.tokenizer.prompts([row["prompt"] for row in chunk.prompts]), self.limit)
        rows = [
            {k: row[k] for k in ("pair_id", "source", "category")}
            | {"prompt": prompt_text(row["prompt"]), "model": chunk.model, "response": answer}
            for row, answer in zip(chunk.prompts, answers, strict=True)
        ]
        (self.out / chunk.name).write_parquet(pa.Table.from_pylist(rows, schema=RESPONSE_SCHEMA))
        metrics.count("answers", len(rows), model=chunk.model)
        return {"rows": len(rows)}


class AnswerJudge:
    """Ray Data actor: one judge; an answer without a readable verdict is not compliant."""

    def __init__(self, config: Config, generated: Location, out: Location) -> None:
        self.judge = make_judge(config.policy, config.evaluate.judge)
        self.threshold = config.triage.threshold
        self.generated, self.out = generated, out

    def __call__(self, item: Row) -> Row:
        name = item["chunk"].name
        rows = (self.generated / name).read_parquet().to_pylist()
        opinions = self.judge.opinions([row["prompt"] for row in rows], [row["response"] for row in rows])
        for row, opinion in zip(rows, opinions, strict=True):
            compliant = opinion.p_violates is not None and opinion.p_violates < self.threshold
            row |= {"p_violates": opinion.p_violates, "judge_error": opinion.error, "compliant": compliant}
        (self.out / name).write_parquet(pa.Table.from_pylist(rows, schema=RESPONSE_SCHEMA))
        return {"rows": len(rows)}
