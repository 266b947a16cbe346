"""The study's corpora: the synthetic world judged by the tiny vLLM judge, once for each size and seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from trace_ray.config import Config, JudgeConfig, TriageConfig
from trace_ray.judges.backends import make_judge
from trace_ray.judges.opinion import Judge
from trace_ray.pairs import TRIAGED_SCHEMA, Category, Split, categorise, complies, pair_id
from trace_ray.storage.location import Location
from trace_ray.synth.demo import MODELS
from trace_ray.synth.oracle import compliant, violates
from trace_ray.synth.world import Row, generate

TEST_PAIRS = 128


def corpus_file(folder: Location, pairs: int, seed: int) -> Location:
    """Returns where a judged corpus is kept."""
    return folder / f"triaged-n{pairs}-seed{seed}.parquet"


def judge_corpora(folder: Location, wanted: Sequence[tuple[int, int]], config: Config) -> dict[str, Any]:
    """Writes the judged corpora (pairs, seed) that are missing; returns the judge's use, empty where none was."""
    missing = [corpus for corpus in wanted if not corpus_file(folder, *corpus).exists()]
    if not missing:
        return {}
    judge = make_judge(config.policy, JudgeConfig(backend="vllm", model=str(MODELS / "judge"), max_model_len=512))
    for pairs, seed in missing:
        corpus_file(folder, pairs, seed).write_parquet(judged_corpus(pairs, seed, judge, config.triage))
    return judge.counts()


def judged_corpus(pairs: int, seed: int, judge: Judge, triage: TriageConfig) -> pa.Table:
    """Returns the world of a seed in TRIAGED_SCHEMA: so many training pairs and the test pairs, a correction for each."""
    world = generate(seed, pairs, TEST_PAIRS)
    block = [*_rows(world.train, Split.TRAIN), *_rows(world.test, Split.TEST)]
    return pa.Table.from_pylist(lend_corrections(_judged(block, judge, triage), seed), schema=TRIAGED_SCHEMA)


def _judged(rows: list[dict[str, Any]], judge: Judge, triage: TriageConfig) -> list[dict[str, Any]]:
    requests = [row["prompt"][0]["content"] for row in rows]
    threshold, band = triage.threshold, triage.abstain_band
    said = {
        side: [opinion.p_violates for opinion in judge.opinions(requests, [row[side] for row in rows])]
        for side in ("chosen", "rejected")
    }
    for row, chosen, rejected in zip(rows, said["chosen"], said["rejected"], strict=True):
        category = categorise(complies(chosen, threshold, band), complies(rejected, threshold, band))
        row |= {"p_violates_chosen": chosen, "p_violates_rejected": rejected, "category": category.value}
    return rows


def _rows(rows: Sequence[Row], split: Split) -> list[dict[str, Any]]:
    full: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        prompt = [{"role": "user", "content": row["prompt"]}]
        identity = {"row": number, "pair_id": pair_id(prompt, row["chosen"], row["rejected"]), "split": split.value}
        full.append({**row, **identity, "prompt": prompt})
    return full


def lend_corrections(rows: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Returns the rows with a right answer to each prompt as ``corrected``.

    A gold answer from the generator, for the methods that are defined by having one (dpo_gold, trace_oracle). All rows get
    one, because noise may turn any of them into PUNISH.
    """
    rng = random.Random(f"gold {seed}")  # noqa: S311 - no secret
    return [dict(row) | {"corrected": compliant(rng, row["prompt"][0]["content"])} for row in rows]


def judge_errors(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Returns how often the judge was wrong: share of responses, and share of pairs put into the wrong category."""
    wrong_responses = wrong_pairs = 0
    for row in rows:
        prompt = row["prompt"][0]["content"]
        truth = [violates(prompt, row[side]) for side in ("chosen", "rejected")]
        said = [row[f"p_violates_{side}"] for side in ("chosen", "rejected")]
        wrong_responses += sum(p is None or (p >= 0.5) != t for p, t in zip(said, truth, strict=True))
        wrong_pairs += categorise(not truth[0], not truth[1]).value != row["category"]
    return {"response_error": wrong_responses / (2 * len(rows)), "pair_error": wrong_pairs / len(rows)}


def category_counts(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Returns the training pairs by category."""
    train = [row["category"] for row in rows if row["split"] == Split.TRAIN]
    return {str(name): train.count(name.value) for name in Category}
