"""The direction on Ray: gold shards' gradients summed part by part, and the Gauss-Newton solve where asked for."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from trace_ray.cluster.actor_pool import ActorPool
from trace_ray.config import Config, ImpactConfig
from trace_ray.errors import UserError
from trace_ray.impact.tasks import (
    DIRECTION,
    GOLD,
    RETAIN_SAMPLE,
    curvature_shard,
    gold_shard,
    read_parts,
    spans,
    sum_part,
)
from trace_ray.runs.artifacts import Run
from trace_ray.runtime.progress import Meter


def task(function: Any, impact: ImpactConfig, *, cpus: float) -> Any:
    """Returns the function as a Ray task without a GPU, retried where its worker or node is lost."""
    import ray

    options = {"num_cpus": cpus, "max_retries": impact.max_retries}
    return ray.remote(label_selector=impact.label_selector or None, **options)(function)


def write_direction(run: Run, config: Config, pool: ActorPool) -> dict[str, Any]:
    """Writes v and then ``direction.json``; returns what that says of it.

    The driver holds no gradient: the i-th parts of all gold shards meet in one task that writes their sum.
    """
    import ray

    place = run.impact.place / DIRECTION
    if place.exists():
        return dict(json.loads(place.read_text()))
    size = (run.impact.place / GOLD).read_parquet(["pair_id"]).num_rows
    shards = pool.streams(gold_shard, [(run, config, *span) for span in spans(size, pool.settle(size))])
    summing = task(sum_part, config.impact, cpus=0)  # the actors hold what CPUs there are, and wait for the sums
    written: list[Any] = []
    with Meter("impact: direction", 0, "parts") as meter:
        while True:
            try:
                parts = [next(gradients) for gradients in shards]
            except StopIteration:
                break
            name = f"direction{f'-{len(written):05d}' if written else ''}.safetensors"
            out = run.impact.place / name
            written.append(summing.remote(out, 1 / (size * config.impact.gamma), *parts))
            meter.advance(1)
        facts = ray.get(written)
    norm = sum(fact["squared"] for fact in facts) ** 0.5
    if not all(fact["finite"] for fact in facts) or norm == 0:
        raise UserError(
            "impact", "the gold gradient is zero or not finite", "check the model's weights and model.dtype"
        )
    about: dict[str, Any] = {"parts": [fact["file"] for fact in facts], "norm": norm, "gold_pairs": size}
    about["curvature"] = config.impact.curvature
    about["traffic"] = dict(sum((Counter(fact["traffic"]) for fact in facts), Counter()))
    if config.impact.curvature == "gauss_newton":
        about |= _solve(run, config, about, pool)
    place.write_text(json.dumps(about, indent=1))
    return about


def _solve(run: Run, config: Config, about: dict[str, Any], pool: ActorPool) -> dict[str, Any]:
    """Puts (G + gamma I)^-1 g_J in the place of g_J / gamma; the products are summed over RETAIN shards on tasks.

    The driver holds the vectors of the solve (four of them): with ``full`` that is four times the model in float32.
    """
    import ray
    from safetensors.torch import save

    from trace_ray.impact.direction import solve

    impact = config.impact
    place = run.impact.place
    gold = {name: value * impact.gamma for name, value in read_parts(run, about["parts"]).items()}
    rows = (place / RETAIN_SAMPLE).read_parquet(["pair_id"]).num_rows
    with Meter("impact: conjugate gradients", impact.cg_iterations, "products") as meter:

        def product(vector: dict[str, Any]) -> dict[str, Any]:
            stored = ray.put({name: value.numpy() for name, value in vector.items()})
            calls = [(run, config, stored, *span) for span in spans(rows, pool.settle(rows))]
            total = {name: value.new_zeros(value.shape) for name, value in vector.items()}
            for image in pool.gathered(curvature_shard, calls):
                for name, value in image.items():
                    total[name] += total[name].new_tensor(value)
            meter.advance(1)
            return {name: value / rows for name, value in total.items()}

        found = solve(gold, product, impact)
    (place / "direction.safetensors").write_bytes(save({n: v.contiguous() for n, v in found.vector.items()}))
    size = float(sum(v.double().square().sum() for v in found.vector.values()) ** 0.5)
    inner = float(sum((v.double() * gold[n].double()).sum() for n, v in found.vector.items()))
    gold_size = about["norm"] * impact.gamma
    return {
        "parts": ["direction.safetensors"],
        "norm": size,
        "residuals": [float(f"{r:.3g}") for r in found.residuals],
        "retain_pairs": rows,
        "cosine_to_identity": inner / (size * gold_size),
    }
