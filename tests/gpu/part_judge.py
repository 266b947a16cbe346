"""Triage of real pairs by a vLLM judge of the shape, random weights on disk: `trace-ray triage`, as anyone runs it."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.gpu.figures import PEAK_FLOPS, tell
from tests.gpu.shapes import llama, on_card, pairs_file, tokenizer_folder
from tests.gpu.weights import bf16_bytes, roomy_folder, shapes, write_model

ROOT = Path(__file__).resolve().parents[2]


def measure(options: argparse.Namespace) -> bool:
    """Tells the judge's figures; returns whether all went well."""
    config = llama(options.shape)
    folder, run = roomy_folder(bf16_bytes(config)), tempfile.mkdtemp(prefix="gpu-check-run-")
    try:
        started = time.perf_counter()
        write_model(folder, config, tokenizer_folder())
        tell(weights_gib=bf16_bytes(config) / 2**30, write_s=time.perf_counter() - started, folder=folder)
        seconds = triage(folder, run, options)
        manifest = json.loads((Path(run) / "triaged" / "manifest.json").read_text())
        tell(command_s=seconds, stage_s=manifest["seconds"], **judged(manifest, _parameters(config)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(run, ignore_errors=True)
    return True


def triage(model: str, run: str, options: argparse.Namespace) -> float:
    """Runs the stage; returns its seconds. Raises CalledProcessError where it ends otherwise than well."""
    gpu = on_card()
    given = [f"model.path={model}", f"corpus.paths=[{pairs_file()}]", f"corpus.limit={options.judge_pairs}"]
    given += ["corpus.holdout=0", "corpus.rows_per_part=4096", "triage.correct=false"]
    given += ["evaluate.judge.backend=vllm", f"evaluate.judge.model={model}"]
    # Random weights say what they like: nothing they say may stop the run.
    given += ["triage.min_canary_pass=0", "triage.max_one_sided=1", "triage.max_unreadable=1"]
    judge = {"backend": "vllm", "model": model, "max_model_len": 2048, "min_mass": 0, "actors": 1, "max_actors": 1}
    judge |= (
        {"num_gpus": 1, "num_cpus": 8, "batch_rows": 512} if gpu else {"num_gpus": 0, "num_cpus": 1, "batch_rows": 16}
    )
    given += [f"triage.judge.{name}={value}" for name, value in judge.items()]
    command = [sys.executable, "-m", "trace_ray.cli", "triage", "-c", "policies/contextual_harm", "--run", run]
    started = time.perf_counter()
    subprocess.run([*command, *given, *options.judge_set], cwd=ROOT, env=child_environment(), check=True)
    return time.perf_counter() - started


def child_environment() -> dict[str, str]:
    """Returns this process' environment with the project first among the places that Python looks at."""
    places = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.environ | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(places))}


def judged(manifest: dict[str, Any], parameters: int) -> dict[str, Any]:
    """Returns rates from what the stage recorded, over the time from the judge's first question to its last answer."""
    used = manifest["used"]
    seconds = (used["engine_ms"] + used["engine_waited_ms"]) / 1000
    responses, tokens = used["judged_prompts"], used["judged_tokens"]
    hits = manifest["prefix_cache_hit_rate"] or 0.0
    computed = tokens * (1 - hits)
    figures = {"pairs": manifest["counts"]["triaged"], "responses": responses, "seconds": seconds}
    figures |= {"pairs_per_s": responses / 2 / seconds, "prompt_tokens": tokens / responses, "prefix_hits": hits}
    figures |= {"prompt_tokens_per_s": tokens / seconds, "computed_tokens_per_s": computed / seconds}
    peak = _peak()
    figures["peak_share"] = None if peak is None else 2.0 * parameters * computed / seconds / peak
    return figures | {"engine_busy_share": manifest["engine_busy_share"], "engine_s": used["engine_ms"] / 1000}


def _parameters(config: Any) -> int:
    """Weights that every computed token is multiplied by: the body's; the head sees each prompt's last token alone."""
    counts = {name: shape[0] * shape[1] for name, shape in shapes(config).items() if len(shape) == 2}
    return sum(n for name, n in counts.items() if "embed_tokens" not in name and "lm_head" not in name)


def _peak() -> float | None:
    from tests.gpu.check import card_name

    name = card_name() or ""
    return next((flops for card, flops in PEAK_FLOPS.items() if card in name), None)
