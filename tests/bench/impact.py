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
import gzip
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
PADDED = 256
PROCEDURES = ("ours", "forward", "reference", "autograd", "jvp", "vmap", "oracle")
WHOLE = ("ours", "forward")


class Scene:
    """Model, adapter, direction and triaged conflicts."""

    def __init__(self, model_path: str, pairs: int, threads: int) -> None:
        import pyarrow as pa
        import torch

        from trace_ray.config import ImpactConfig, LoraSettings, ModelConfig, ObjectiveConfig
        from trace_ray.impact.shard import Selection
        from trace_ray.models import load_chat_tokenizer, load_model, new_adapter
        from trace_ray.pairs import TRIAGED_SCHEMA

        torch.set_num_threads(threads)
        config = ModelConfig(path=model_path, max_length=PADDED)
        targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        lora = LoraSettings(r=16, alpha=32, dropout=0.0, target_modules=targets)
        self.model = new_adapter(load_model(config), lora, 0).eval()
        self.tokenizer = load_chat_tokenizer(config)
        self.table = pa.Table.from_pylist(conflicts(pairs), schema=TRIAGED_SCHEMA)
        self.selection = Selection(ObjectiveConfig(), 1.0, 0)
        self.impact = ImpactConfig(batch_tokens=2048)
        generator = torch.Generator().manual_seed(1)
        named = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        self.direction = {
            n: torch.randn(p.shape, generator=generator) * 0.01 if "lora_B" in n else torch.zeros_like(p)
            for n, p in named
        }
        self.rows = self.selection.rows(self.table)
        names = [self.selection.responses(row["category"]) for row in self.rows]
        texts = [{n: row[n] for n in some} for row, some in zip(self.rows, names, strict=True)]
        self.pairs = self.tokenizer.pairs([row["prompt"] for row in self.rows], texts)

    def trainable(self) -> dict[str, Any]:
        return {n: p for n, p in self.model.named_parameters() if n in self.direction}

    def impact_of(self, s: Sequence[dict[str, float]]) -> list[float]:
        """Pairs' impacts from s(y), for the procedures that give these."""
        from trace_ray.impact.slopes import pair_slopes

        rows = [
            row | {f"{n}_ids": ids for n, ids in pair.response_ids.items()}
            for row, pair in zip(self.rows, self.pairs, strict=True)
        ][: len(s)]
        slopes = pair_slopes(rows, self.selection.objective)
        return [sum(c * some[n] for n, c in slope.items()) for slope, some in zip(slopes, s, strict=True)]


def conflicts(count: int) -> list[dict[str, Any]]:
    """The first conflicts of PKU under "at most 50 words"."""
    rows: list[dict[str, Any]] = []
    with gzip.open(SHARED / "pku_saferlhf_2400.jsonl.gz", "rt") as lines:
        for number, line in enumerate(lines):
            row = json.loads(line)
            long = {side: len(row[side].split()) > 50 for side in ("chosen", "rejected")}
            if not long["chosen"]:
                continue
            category = "PUNISH" if long["rejected"] else "INVERT"
            judged = {"p_violates_chosen": 1.0, "p_violates_rejected": float(long["rejected"]), "category": category}
            known = {"row": number, "pair_id": f"{number:08d}", "source": "pku", "split": "train"}
            prompt = [{"role": "user", "content": row["prompt"]}]
            texts = {side: row[side] for side in ("chosen", "rejected")}
            rows.append({**known, **judged, **texts, "prompt": prompt, "corrected": None, "judge_error": None})
            if len(rows) == count:
                break
    return rows


def ours(scene: Scene, count: int) -> Any:
    from trace_ray.impact.shard import score_shard

    scene.model.requires_grad_(False)
    table = scene.table.slice(0, count)
    rows = score_shard(table, scene.selection, scene.model, scene.direction, scene.tokenizer, scene.impact).to_pylist()
    return [row["impact"] for row in rows]


def forward(scene: Scene, count: int) -> Any:
    from trace_ray.impact.requests import Request, run_requests
    from trace_ray.impact.scores import Scorer

    scene.model.requires_grad_(False)
    with scene.model.disable_adapter():
        requests = [Request(pair.prompt_ids, pair.response_ids, None) for pair in scene.pairs[:count]]
        run_requests(requests, Scorer(scene.model, scene.direction), scene.impact)


def _log_prob(model: Any, prompt: Sequence[int], response: Sequence[int], pad_to: int = 0) -> Any:
    import torch

    ids = torch.tensor([[*prompt, *response]])
    mask = torch.ones_like(ids)
    if pad_to > ids.shape[1]:
        missing = pad_to - ids.shape[1]
        ids, mask = (torch.nn.functional.pad(x, (0, missing)) for x in (ids, mask))
    logits = model(input_ids=ids, attention_mask=mask).logits[0, len(prompt) - 1 : len(prompt) + len(response) - 1]
    return logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None]).sum()


def reference(scene: Scene, count: int) -> Any:
    """The paper's procedure: policy and reference log-probs of both responses without a graph, then both with one."""
    import torch

    parameters = scene.trainable()
    results = []
    for pair in scene.pairs[:count]:
        s = {}
        for name, ids in pair.response_ids.items():
            with torch.no_grad():
                for _ in range(2):
                    _log_prob(scene.model, pair.prompt_ids, ids, PADDED)
            s[name] = _dot(_log_prob(scene.model, pair.prompt_ids, ids, PADDED), parameters, scene.direction)
        results.append(s)
    return scene.impact_of(results)


def _dot(value: Any, parameters: dict[str, Any], direction: dict[str, Any]) -> float:
    import torch

    gradients = torch.autograd.grad(value, list(parameters.values()))
    return sum(float((g * direction[n]).sum()) for n, g in zip(parameters, gradients, strict=True))


def autograd(scene: Scene, count: int) -> Any:
    parameters = scene.trainable()
    return scene.impact_of(
        [
            {
                n: _dot(_log_prob(scene.model, p.prompt_ids, ids), parameters, scene.direction)
                for n, ids in p.response_ids.items()
            }
            for p in scene.pairs[:count]
        ]
    )


def oracle(scene: Scene, count: int) -> Any:
    scene.model.double()
    scene.direction = {name: value.double() for name, value in scene.direction.items()}
    return autograd(scene, count)


def _batched(scene: Scene, count: int, score: Callable[[Any], Any], tokens: int) -> Any:
    """Scores each response with ``score(SequenceBatch)``, in batches of like length."""
    from trace_ray.batching import token_batches
    from trace_ray.log_probs import collate

    scene.model.set_attn_implementation("eager")
    flat = [(i, n, p.prompt_ids, ids) for i, p in enumerate(scene.pairs[:count]) for n, ids in p.response_ids.items()]
    results: list[dict[str, float]] = [{} for _ in range(count)]
    for at in token_batches([len(p) + len(y) for *_, p, y in flat], tokens):
        some = [flat[k] for k in at]
        values = score(collate([p for *_, p, _ in some], [y for *_, y in some])).tolist()
        for (i, name, *_), value in zip(some, values, strict=True):
            results[i][name] = value
    return scene.impact_of(results)


def jvp(scene: Scene, count: int) -> Any:
    import torch

    from trace_ray.log_probs import response_logits, sum_by_sequence, target_log_probs

    parameters = {n: p.detach() for n, p in scene.trainable().items()}

    class LogProbs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = scene.model

        def forward(self, batch: Any) -> Any:
            return sum_by_sequence(target_log_probs(response_logits(self.model, batch), batch.target_N), batch)

    module = LogProbs()

    def score(batch: Any) -> Any:
        def run(some: dict[str, Any]) -> Any:
            return torch.func.functional_call(module, {f"model.{n}": p for n, p in some.items()}, (batch,))

        with torch.no_grad():
            return torch.func.jvp(run, (parameters,), (scene.direction,))[1]

    return _batched(scene, count, score, scene.impact.batch_tokens)


def vmap(scene: Scene, count: int) -> Any:
    import torch

    parameters = {n: p.detach() for n, p in scene.trainable().items()}
    causal = scene.model.get_base_model()

    def score(batch: Any) -> Any:
        length = batch.input_ids_BT.shape[1]
        weight_BT = torch.zeros(batch.size, length).index_put((batch.sequence_N, batch.position_N), torch.ones(()))
        target_BT = torch.roll(batch.input_ids_BT, -1, 1)
        mask_11TT = torch.full((1, 1, length, length), torch.finfo(torch.float32).min).triu(1)
        places = torch.arange(length)[None]

        def logp(some: dict[str, Any], embeds_TD: Any, target_T: Any, weight_T: Any) -> Any:
            inputs = {"inputs_embeds": embeds_TD[None], "attention_mask": mask_11TT, "position_ids": places}
            logits = torch.func.functional_call(scene.model, some, (), inputs | {"use_cache": False}).logits[0]
            return (logits.log_softmax(-1).gather(1, target_T[:, None])[:, 0] * weight_T).sum()

        embeds_BTD = causal.get_input_embeddings()(batch.input_ids_BT).detach()
        gradients = torch.func.vmap(torch.func.grad(logp), (None, 0, 0, 0))(
            parameters, embeds_BTD, target_BT, weight_BT
        )
        return sum((g * scene.direction[n]).flatten(1).sum(1) for n, g in gradients.items())

    return _batched(scene, count, score, 4 * PADDED)


def measure(name: str, model: str, count: int, threads: int) -> dict[str, Any]:
    scene = Scene(model, count, threads)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    found = globals()[name](scene, count)
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
    from trace_ray.models import load_chat_tokenizer

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
