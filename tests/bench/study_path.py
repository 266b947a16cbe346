"""Agreement along a training: where each method learns the new policy, and where it loses what it learned.

    python -m tests.bench.study_path [--methods trace,npo] [--steps 180] [--every 12] [--pairs 900] [--rates trace=5.7e-4]

The study measures the end of a training; this measures one training of each method every so many steps (synthetic world, exact
judge and oracle, one seed), at the rates that the study chose for 60 steps unless others are given.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import pyarrow as pa
import torch

from trace_ray.config import JudgeConfig
from trace_ray.judges.backends import make_judge
from trace_ray.model.modes import training_mode
from trace_ray.realign.training import Training
from trace_ray.runtime import environment
from trace_ray.study.cells import Cell
from trace_ray.study.corpora import judged_corpus
from trace_ray.study.measure import measure
from trace_ray.study.realign import realign_cell

RATES = {"trace": 5.66e-4, "no_impact": 5.66e-4, "no_retain": 5.66e-4, "trace_oracle": 4e-4, "npo": 4e-4}
RATES |= {"dpo_gold": 8e-4, "naive_oracle_dpo": 1.131e-3, "rdpo": 1.131e-3, "no_triage": 5.66e-4}
LEARNED = 99.0


def path(method: str, triaged: pa.Table, rate: float, steps: int, every: int) -> list[dict[str, Any]]:
    """Returns step, tpa, to_learn (the prompts that change), kept (the rest) and kl of one training."""
    cell = Cell(method=method, pairs=len(triaged), seed=0, rate=rate, overrides=(f"realign.max_steps={steps}",))
    config, rows = cell.config(), triaged.to_pylist()
    seen: list[dict[str, Any]] = []

    def look(model: Any, training: Training) -> None:
        if training.step % every:
            return
        model.eval()
        found = measure(model, rows, config)
        training_mode(model)
        by = found["tpa_by_source"]
        changed = by.pop("sensitive_educational")
        kept = sum(by.values()) / len(by)
        now = {"step": training.step, "tpa": found["tpa"], "to_learn": changed, "kept": kept}
        seen.append(now | {"kl": round(found["kl_to_base"], 4)})

    realign_cell(triaged, config, look)
    return seen


def exactly_judged(pairs: int) -> pa.Table:
    """Returns the study's corpus of seed 0, judged by the policy's rules."""
    config = Cell(method="trace", pairs=pairs, seed=0).config()
    return judged_corpus(pairs, 0, make_judge(config.policy, JudgeConfig(backend="rules")), config.triage)


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
    rates = RATES | {
        m: float(rate) for m, rate in (rate_given.split("=") for rate_given in arguments.rates.split(",") if rate_given)
    }
    triaged = exactly_judged(arguments.pairs)
    paths: dict[str, list[dict[str, Any]]] = {}
    for method in arguments.methods.split(","):
        paths[method] = path(method, triaged, rates[method], arguments.steps, arguments.every)
        print(f"{method:18}" + "".join(f"{point['tpa']:6.0f}" for point in paths[method]), flush=True)
    held = {m: [point["step"] for point in found if point["tpa"] >= LEARNED] for m, found in paths.items()}
    print(json.dumps({"every": arguments.every, "rates": rates, "steps_at_99": held, "paths": paths}))


if __name__ == "__main__":
    main()
