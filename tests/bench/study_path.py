"""Agreement along a training: where each method learns the new policy, and where it loses what it learned.

    python -m tests.bench.study_path [--methods trace,npo] [--steps 180] [--every 12] [--pairs 900] [--rates trace=5.7e-4]

The study measures the end of a training; this measures one training of each method every so many steps (synthetic world, exact
judge and oracle, one seed), at the rates that the study chose for 60 steps unless others are given.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from trace_ray.config import JudgeConfig, StorageConfig
from trace_ray.config.policy import PolicyConfig
from trace_ray.judges.backends import make_judge
from trace_ray.judges.opinion import Judge
from trace_ray.model.loading import load_model, new_adapter
from trace_ray.runs.artifacts import Run
from trace_ray.runtime import environment
from trace_ray.storage.location import locate
from trace_ray.study import corpora
from trace_ray.study.cells import Cell
from trace_ray.study.measure import measure
from trace_ray.study.score import make_direction, score, weigh
from trace_ray.study.train import train

RATES = {"trace": 5.66e-4, "no_impact": 5.66e-4, "no_kl": 5.66e-4, "trace_oracle": 4e-4, "npo": 4e-4}
RATES |= {"dpo_gold": 8e-4, "naive_oracle_dpo": 1.131e-3, "rdpo": 1.131e-3, "no_triage": 5.66e-4}
LEARNED = 99.0


def path(method: str, triaged: pa.Table, rate: float, steps: int, every: int) -> list[dict[str, Any]]:
    """Returns step, tpa, to_learn (the prompts that change), kept (the rest) and kl of one training."""
    cell = Cell(method=method, pairs=len(triaged), seed=0, rate=rate, overrides=(f"realign.max_steps={steps}",))
    config, rows = cell.config(), triaged.to_pylist()
    model = new_adapter(load_model(config.model), config.lora, config.impact.seed).eval()
    scored, _ = weigh(score(model, triaged, make_direction(model, triaged, config), config), config)
    seen: list[dict[str, Any]] = []
    taken = 0

    def look(*_: Any) -> None:
        nonlocal taken
        taken += 1
        if taken % every:
            return
        model.eval()
        found = measure(model, rows, config)
        model.train()
        by = found["tpa_by_source"]
        changed = by.pop("sensitive_educational")
        kept = sum(by.values()) / len(by)
        seen.append(
            {"step": taken, "tpa": found["tpa"], "to_learn": changed, "kept": kept, "kl": round(found["kl_to_base"], 4)}
        )

    hook = register_optimizer_step_post_hook(look)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            train(model, scored, config, steps, Run(locate(scratch, config.storage)))
    finally:
        hook.remove()
    return seen


def exactly_judged(pairs: int) -> pa.Table:
    """Returns the study's corpus of seed 0, judged by the policy's rules."""

    def by_rules(policy: PolicyConfig, *_: Any) -> Judge:
        return make_judge(policy, JudgeConfig(backend="rules"))

    with tempfile.TemporaryDirectory() as scratch, patch.object(corpora, "make_judge", by_rules):
        folder = locate(scratch, StorageConfig())
        corpora.judge_corpora(folder, [(pairs, 0)], Cell(method="trace", pairs=pairs, seed=0).config())
        return corpora.corpus_file(folder, pairs, 0).read_parquet()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", default=",".join(RATES))
    parser.add_argument("--steps", type=int, default=180)
    parser.add_argument("--every", type=int, default=12)
    parser.add_argument("--pairs", type=int, default=900)
    parser.add_argument("--rates", default="", help="method=rate, separated by commas")
    arguments = parser.parse_args()
    environment.prepare()
    torch.set_num_threads(1)
    rates = RATES | {m: float(rate) for m, rate in (one.split("=") for one in arguments.rates.split(",") if one)}
    triaged = exactly_judged(arguments.pairs)
    paths: dict[str, list[dict[str, Any]]] = {}
    for method in arguments.methods.split(","):
        paths[method] = path(method, triaged, rates[method], arguments.steps, arguments.every)
        print(f"{method:18}" + "".join(f"{one['tpa']:6.0f}" for one in paths[method]), flush=True)
    held = {m: [one["step"] for one in found if one["tpa"] >= LEARNED] for m, found in paths.items()}
    print(json.dumps({"every": arguments.every, "rates": rates, "steps_at_99": held, "paths": paths}))


if __name__ == "__main__":
    main()
