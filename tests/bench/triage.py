"""Measures triage: vLLM judge against batched transformers, the pipeline without a model, memory against corpus size.

    python tests/bench/triage.py --model models/smollm2-135m-instruct --pairs-file ../shared/data/pku_saferlhf_2400.jsonl.gz

Part (i) is both judges on the same pairs in this process, same weights, same dtype, the policy of
conf/policies/contextual_harm.yaml; the baseline sorts by length, pads batches and recomputes the policy for every
response. Parts (ii) and (iii) run `trace-ray triage` with the rules judge on generated files of 100 k and 1 M pairs and
sum the proportional memory (PSS) of all its processes, Ray's included, once a second. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    parser.add_argument("--pairs-file", default="../shared/data/pku_saferlhf_2400.jsonl.gz")
    parser.add_argument("--pairs", type=int, default=256, help="pairs judged by both in part (i); 0 leaves it out")
    parser.add_argument("--batch", type=int, default=16, help="responses in a batch of the baseline")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--sizes", type=int, nargs="*", default=[100_000, 1_000_000], help="corpora of (ii) and (iii)")
    parser.add_argument("--scratch", default=None, help="folder for generated corpora and runs")
    return parser.parse_args()


def read_pairs(path: str) -> list[dict[str, str]]:
    from trace_ray.config import StorageConfig
    from trace_ray.corpus.files import raw_rows
    from trace_ray.corpus.read import row_values
    from trace_ray.storage.location import locate

    return [row_values(raw) for raw in raw_rows(locate(path, StorageConfig()))]


def judges(args: argparse.Namespace) -> dict[str, Any]:
    """Part (i)."""
    from trace_ray.runtime import environment

    environment.prepare()
    import torch

    from trace_ray.config import JudgeConfig
    from trace_ray.config.load import load_config
    from trace_ray.config.policy import policy_text
    from trace_ray.config.sources import conf_folder
    from trace_ray.judges.vllm_judge import VllmJudge

    policy = load_config([conf_folder() / "policies" / "contextual_harm.yaml"]).policy
    config = JudgeConfig(
        backend="vllm", model=args.model, dtype="float32", max_model_len=2048, min_mass=0.0, num_cpus=args.threads
    )
    judge = VllmJudge(policy, config)
    rows = read_pairs(args.pairs_file)[: args.pairs]
    requests = [row["prompt"] for row in rows for _ in "ab"]
    responses = [row[side] for row in rows for side in ("chosen", "rejected")]
    prompts = judge.prompt_ids(requests, responses)
    judge.opinions(
        requests[:2], responses[:2]
    )  # warm-up: first-use costs and the policy's prefix are no part of a rate
    queries, hits = judge.engine.prefix_cache_counts()
    started = time.perf_counter()
    opinions = judge.opinions(requests, responses)
    vllm_seconds = time.perf_counter() - started
    after = judge.engine.prefix_cache_counts()
    torch.set_num_threads(args.threads)
    started = time.perf_counter()
    plain = transformers_p_yes(args.model, prompts, judge.yes_ids, judge.no_ids, args.batch)
    plain_seconds = time.perf_counter() - started
    differ = max(abs((o.p_violates or 0.0) - p) for o, p in zip(opinions, plain, strict=True))
    return {
        "policy_tokens": len(judge.engine.tokenizer.encode(policy_text(policy))),
        "prompt_tokens": sum(map(len, prompts)) / len(prompts),
        "pairs": len(rows),
        "vllm_pairs_per_s": len(rows) / vllm_seconds,
        "transformers_pairs_per_s": len(rows) / plain_seconds,
        "vs_transformers": plain_seconds / vllm_seconds,
        "prefix_cache_hit_rate": (after[1] - hits) / (after[0] - queries),
        "largest_difference": differ,
    }


def transformers_p_yes(model: str, prompts: list[list[int]], yes: list[int], no: list[int], batch: int) -> list[float]:
    """The baseline: the same probabilities from padded, length-sorted batches; only the last token's logits are made."""
    import torch
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found = [0.0] * len(prompts)
    for start in range(0, len(order), batch):
        mine = order[start : start + batch]
        longest = max(len(prompts[i]) for i in mine)
        ids = torch.tensor([[0] * (longest - len(prompts[i])) + prompts[i] for i in mine])
        mask = torch.tensor([[0] * (longest - len(prompts[i])) + [1] * len(prompts[i]) for i in mine])
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.inference_mode():
            logits = network(ids, attention_mask=mask, position_ids=positions, logits_to_keep=1).logits[:, -1]
        probabilities = logits.float().softmax(-1)
        y, n = probabilities[:, yes].sum(-1), probabilities[:, no].sum(-1)
        for i, p in zip(mine, (y / (y + n)).tolist(), strict=True):
            found[i] = p
    return found


def write_corpus(folder: Path, rows: list[dict[str, str]], pairs: int, files: int = 8) -> None:
    """Distinct pairs: the given ones again and again, each time to another prompt."""
    folder.mkdir()
    number = 0
    for index in range(files):
        with (folder / f"part-{index:03d}.jsonl").open("w") as out:
            for _ in range(pairs // files):
                row, turn = rows[number % len(rows)], number // len(rows)
                out.write(json.dumps({**row, "prompt": f"{row['prompt']} ({turn})"}) + "\n")
                number += 1


def pipeline(args: argparse.Namespace, scratch: Path, pairs: int) -> dict[str, Any]:
    """Parts (ii) and (iii) for one size."""
    corpus, run = scratch / f"corpus-{pairs}", scratch / f"run-{pairs}"
    write_corpus(corpus, read_pairs(args.pairs_file), pairs)
    policy = ROOT / "conf" / "policies" / "brevity.yaml"
    command = [sys.executable, "-m", "trace_ray.cli", "triage", "-c", str(policy), "--run", str(run)]
    command += [f"corpus.paths=[{corpus}]", "triage.judge.backend=rules", "ray.local_cpus=2"]
    command += ["triage.judge.actors=2", "triage.judge.max_actors=2"]
    started = time.perf_counter()
    process = subprocess.Popen(command)
    peak = watch(process)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(f"triage of {pairs} pairs ended with {process.returncode}")
    manifest = json.loads((run / "triaged" / "manifest.json").read_text())
    if manifest["counts"]["triaged"] + manifest["counts"]["rejects"] != pairs // 8 * 8:
        raise RuntimeError(f"rows lost: {manifest['counts']}")
    return {
        "pairs": pairs,
        "seconds": seconds,
        "stage_seconds": manifest["seconds"],
        "pairs_per_s": pairs / seconds,
        "peak_gib": peak / 2**30,
    }


def watch(process: subprocess.Popen[bytes]) -> int:
    """Returns the peak of the summed memory of a process and all its descendants, in bytes, when it has ended."""
    import psutil

    root, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        try:
            family = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            break
        peak = max(peak, sum(map(memory, family)))
        time.sleep(1)
    process.wait()
    return peak


def memory(process: Any) -> int:
    """PSS: shared pages count once over all who share them."""
    try:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def main() -> None:
    args = arguments()
    result: dict[str, Any] = {}
    if args.pairs:
        result |= judges(args)
        for name, value in result.items():
            print(f"{name:28s} {value:12.4f}")
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        sizes = [pipeline(args, Path(scratch), pairs) for pairs in args.sizes]
    print(f"{'pairs':>10s} {'seconds':>9s} {'stage s':>9s} {'pairs/s':>9s} {'peak GiB':>9s}")
    for measured in sizes:
        figures = (measured["seconds"], measured["stage_seconds"], measured["pairs_per_s"], measured["peak_gib"])
        print(f"{measured['pairs']:10d} " + " ".join(f"{value:9.2f}" for value in figures))
    if sizes:
        result |= {"rules_pairs_per_s": sizes[-1]["pairs_per_s"], "sizes": sizes}
        result["memory_growth_1m"] = sizes[-1]["peak_gib"] / sizes[0]["peak_gib"] - 1
    print(json.dumps(result))


if __name__ == "__main__":
    main()
