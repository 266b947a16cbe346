"""Triaged rows of the synthetic world, judged by its oracle, and its shipped tiny policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

import trace_ray.synth
from trace_ray.config import LoraSettings, ModelConfig
from trace_ray.model.loading import load_model, new_adapter
from trace_ray.pairs import TRIAGED_SCHEMA, Category, pair_id
from trace_ray.synth.oracle import violates
from trace_ray.synth.world import generate

POLICY = ModelConfig(path=str(Path(trace_ray.synth.__file__).with_name("models") / "policy"), max_length=128)
LORA = LoraSettings(r=4, alpha=4, dropout=0.0, target_modules=("q_proj", "v_proj", "down_proj"))


def triaged(pairs: int, seed: int = 0) -> pa.Table:
    rows = []
    for i, row in enumerate(generate(seed=seed, train_pairs=pairs, test_pairs=4).train):
        prompt = [{"role": "user", "content": row["prompt"]}]
        w, l = (violates(row["prompt"], row[side]) for side in ("chosen", "rejected"))  # noqa: E741
        category = Category.RETAIN if not w else Category.PUNISH if l else Category.INVERT
        judged = {"p_violates_chosen": float(w), "p_violates_rejected": float(l), "category": str(category)}
        known = {"row": i, "pair_id": pair_id(prompt, row["chosen"], row["rejected"]), "split": "train"}
        rows.append({**row, **known, **judged, "prompt": prompt, "corrected": None, "judge_error": None})
    return pa.Table.from_pylist(rows, schema=TRIAGED_SCHEMA)


def policy(*, parameters: str = "lora") -> Any:
    model = load_model(POLICY)
    return new_adapter(model, LORA, 0).eval() if parameters == "lora" else model.requires_grad_(True)
