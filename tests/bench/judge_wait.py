"""How much of its time a judge's engine computes, with an engine of a stated speed in vLLM's place.

    python -m tests.bench.judge_wait [--per-second 120] [--responses 6144] [--span 512] [--model FOLDER]

Everything around the engine is the product's: prompts made from texts, marks and results of spans on disk. The engine
sleeps for as long as a GPU would take. With ``prepare`` the next span's prompts are made meanwhile; without, between.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trace_ray.config import JudgeConfig, StorageConfig
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.judges import vllm_judge
from trace_ray.judges.opinion import preparing
from trace_ray.model.loading import load_tokenizer
from trace_ray.storage.location import locate
from trace_ray.synth.demo import MODELS
from trace_ray.synth.world import generate
from trace_ray.triage.guard import Guard


class PacedEngine:
    """Answers no faster than ``per_second``; counts its time as the real one does."""

    def __init__(self, model: str, per_second: float) -> None:
        self.tokenizer, self.per_second = load_tokenizer(model), per_second
        self.max_model_len = 8192
        self.busy_s = self.waited_s = 0.0
        self._ended: float | None = None

    def yes_no(self, prompts: Sequence[list[int]], _yes: list[int], _no: list[int]) -> list[tuple[float, float]]:
        started = time.perf_counter()
        self.waited_s += 0.0 if self._ended is None else started - self._ended
        time.sleep(len(prompts) / self.per_second)
        self._ended = time.perf_counter()
        self.busy_s += self._ended - started
        return [(0.75, 0.25)] * len(prompts)

    def prefix_cache_counts(self) -> tuple[int, int]:
        return 0, 0


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--per-second", type=float, default=120.0, help="responses; 120 = 60 pairs")
    parser.add_argument("--responses", type=int, default=6144)
    parser.add_argument("--span", type=int, default=512)
    parser.add_argument("--model", default=str(MODELS / "judge"), help="folder of the tokenizer")
    options = parser.parse_args()
    policy = load_config([conf_folder() / "policies" / "contextual_harm.yaml"]).policy
    world = generate(seed=3).train
    rows = [world[i % len(world)] for i in range(options.responses)]
    requests = [f"{row['prompt']} ({i})" for i, row in enumerate(rows)]
    responses = [" ".join([row["chosen"]] * 8) for row in rows]
    result: dict[str, Any] = {"per_second": options.per_second, "span": options.span}
    for name in ("without", "with"):
        stand_in: Any = PacedEngine(options.model, options.per_second)
        setattr(vllm_judge, "Engine", lambda _settings, made=stand_in: made)  # noqa: B010 - it exports its own alone
        judge = vllm_judge.VllmJudge(policy, JudgeConfig(backend="vllm", model=options.model))
        with tempfile.TemporaryDirectory() as folder:
            guard = Guard(locate(str(Path(folder)), StorageConfig()), options.span)
            guard.judge(requests, responses, judge.opinions, preparing(judge) if name == "with" else None)
        share = stand_in.busy_s / (stand_in.busy_s + stand_in.waited_s)
        result |= {f"busy_share_{name}": round(share, 4), f"tokens_{name}": judge.prompt_tokens}
        print(f"{name:8s} prepare: the engine computes {share:.1%} of the time, {judge.prompt_tokens} prompt tokens")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
