"""What a score costs, on SmolLM2-135M and real pairs; the last line is JSON.

``python -m tests.bench.impact [--only NAME,...] [--pairs 64] [--keep DIR] [--linear]``

Each procedure runs in a process of its own (so that peak memory is its own) on the conflicts of PKU pairs with the policy
"at most 50 words", all with the same model, adapter (LoRA r 16 on every linear, B = 0), direction and threads:

- ours: ``score_shard`` as the stage runs it;
- forward: one no-grad forward of each response, batched like ours: the floor;
- reference: what the paper's code does a pair: four no-grad forwards and two forward + backwards, batch 1, padded to 256;
- autograd: forward + backward of each response at batch 1 and its true length;
- oracle: the same in float64, which the relative errors are measured against;
- jvp: ``torch.func.jvp`` over the batches of ours, eager attention;
- vmap: ``vmap(grad)`` over batches of four, eager attention.

The slow ones run on the first ``--slow-pairs`` pairs of the same list; the table says on how many.
``--linear``: seconds and peak memory of ours on 100 .. 10,000 conflicts of the synthetic world with its tiny model.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.bench.impact_procedures import PROCEDURES, Scene, ours

ROOT = Path(__file__).resolve().parents[2]
WHOLE = ("ours", "forward")


def measure(name: str, model: str, count: int, threads: int) -> dict[str, Any]:
    scene = Scene(model, count, threads)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    found = PROCEDURES[name](scene, count)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tokens = sum(len(p.prompt_ids) + len(y) for p in scene.pairs for y in p.response_ids.values())
    return {
        "pairs": count,
        "seconds": seconds,
        "tokens": tokens,
        "peak_mib": after / 1024,
        "grown_mib": (after - before) / 1024,
        "impact": found,
    }


def measure_linear(count: int) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import torch

    from tests.impact import world
    from trace_ray.config import ImpactConfig, ObjectiveConfig
    from trace_ray.impact.shard import Selection, score_shard
    from trace_ray.model.loading import load_chat_tokenizer

    torch.set_num_threads(2)
    rows = world.triaged(int(5.5 * count) + 50)
    table = rows.filter(pc.is_in(rows["category"], value_set=pa.array(["INVERT", "PUNISH"]))).slice(0, count)
    model, tokenizer = world.policy(), load_chat_tokenizer(world.POLICY)
    direction = {n: torch.randn(p.shape) for n, p in model.named_parameters() if p.requires_grad}
    model.requires_grad_(False)
    selection = Selection(ObjectiveConfig(), 1.0, 0)
    started, scored = time.perf_counter(), 0
    for at in range(0, count, 256):
        part = score_shard(table.slice(at, 256), selection, model, direction, tokenizer, ImpactConfig())
        scored += part.num_rows
    seconds = time.perf_counter() - started
    assert scored == count
    return {"pairs": count, "seconds": seconds, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def two_workers(model: str, count: int) -> dict[str, float]:
    """Seconds of the same pairs in shards of two on one Ray worker and on two, one thread each, models loaded."""
    import ray

    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}}
    )

    @ray.remote(num_cpus=1)
    class Worker:
        def __init__(self) -> None:
            self.scene = Scene(model, count, 1)

        def score(self, start: int, stop: int) -> float:
            part = self.scene.table
            self.scene.table = part.slice(start, stop - start)
            ours(self.scene, stop - start)
            self.scene.table = part
            return 0.0

    seconds = {}
    workers = [Worker.remote() for _ in range(2)]  # type: ignore[attr-defined]
    ray.get([worker.score.remote(0, 1) for worker in workers])
    for number in (1, 2):
        pool = ray.util.ActorPool(workers[:number])
        started = time.perf_counter()
        list(pool.map(lambda w, at: w.score.remote(at, min(count, at + 2)), list(range(0, count, 2))))
        seconds[f"seconds_{number}"] = time.perf_counter() - started
    ray.shutdown()
    return seconds


def child(arguments: argparse.Namespace, *more: str) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "tests.bench.impact",
        "--model",
        arguments.model,
        "--threads",
        str(arguments.threads),
    ]
    done = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1][:200] if done.stderr.strip() else "died"}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def kept(arguments: argparse.Namespace, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What an earlier call measured and kept, or a new measurement."""
    place = arguments.keep / f"{name}.json" if arguments.keep else None
    if place and place.exists():
        return dict(json.loads(place.read_text()))
    found = make()
    if place:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(found))
    return found


def relative_error(found: Sequence[float], truth: Sequence[float]) -> float:
    """The largest difference as a share of the root mean square."""
    pairs = list(zip(found, truth, strict=False))
    size = (sum(t * t for _, t in pairs) / len(pairs)) ** 0.5
    return float(max(abs(f - t) for f, t in pairs) / size)


def report(arguments: argparse.Namespace) -> None:
    results = {}
    for name in arguments.only.split(","):
        count = arguments.pairs if name in WHOLE else arguments.slow_pairs
        call = ["--child", name, "--count", str(count)]
        results[name] = kept(arguments, name, functools.partial(child, arguments, *call))
        sys.stderr.write(f"{name}: {results[name].get('seconds', results[name].get('error'))}\n")
    truth = results.get("oracle", {}).get("impact")
    print("| procedure | pairs | s/pair | x ours | peak MiB | of it grown | relative error |")
    print("|---|---|---|---|---|---|---|")
    per_pair = {n: r["seconds"] / r["pairs"] for n, r in results.items() if "seconds" in r}
    for name, found in results.items():
        if "error" in found:
            print(f"| {name} | fails: {found['error']} |")
            continue
        error = relative_error(found["impact"], truth) if found["impact"] and truth else None
        print(
            f"| {name} | {found['pairs']} | {per_pair[name]:.2f} | {per_pair[name] / per_pair.get('ours', 1):.2f} "
            f"| {found['peak_mib']:.0f} | {found['grown_mib']:.0f} | {'' if error is None else f'{error:.1e}'} |"
        )
    last: dict[str, Any] = {}
    if {"ours", "reference"} <= set(per_pair):
        # The slow procedures saw the first pairs only: lengths differ, so each is set against ours on its tokens.
        tokens = {n: results[n]["seconds"] / results[n]["tokens"] for n in per_pair}
        last["vs_reference"] = per_pair["reference"] / per_pair["ours"]
        last["vs_reference_per_token"] = tokens["reference"] / tokens["ours"]
    if {"ours", "forward"} <= set(per_pair):
        last["forwards_per_token"] = per_pair["ours"] / per_pair["forward"]
    if truth and results.get("ours", {}).get("impact"):
        last["max_rel_err"] = relative_error(results["ours"]["impact"], truth)
    if not arguments.no_workers:
        workers = kept(arguments, "workers", lambda: two_workers(arguments.model, arguments.slow_pairs * 2))
        print(f"one worker {workers['seconds_1']:.1f} s, two workers {workers['seconds_2']:.1f} s")
        last["speedup_two_workers"] = workers["seconds_1"] / workers["seconds_2"]
    print(json.dumps(last))


def report_linear(arguments: argparse.Namespace) -> None:
    print("| conflicts | seconds | ms/pair | peak MiB |\n|---|---|---|---|")
    seconds = {}
    for count in (100, 1000, 3000, 10_000):
        found = kept(
            arguments,
            f"linear-{count}",
            functools.partial(child, arguments, "--child", "linear", "--count", str(count)),
        )
        seconds[count] = found["seconds"]
        print(f"| {count} | {found['seconds']:.1f} | {1000 * found['seconds'] / count:.2f} | {found['peak_mib']:.0f} |")
    print(json.dumps({"seconds": seconds}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=str(ROOT / "models" / "smollm2-135m-instruct"))
    parser.add_argument("--only", default=",".join(PROCEDURES))
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--slow-pairs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, default=None)
    parser.add_argument("--linear", action="store_true")
    parser.add_argument("--no-workers", action="store_true")
    parser.add_argument("--child", default="")
    parser.add_argument("--count", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.child == "linear":
        print(json.dumps(measure_linear(arguments.count)))
    elif arguments.child:
        print(json.dumps(measure(arguments.child, arguments.model, arguments.count, arguments.threads)))
    elif arguments.linear:
        report_linear(arguments)
    else:
        report(arguments)


if __name__ == "__main__":
    main()
