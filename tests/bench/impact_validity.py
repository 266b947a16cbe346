"""Does the impact score mean anything? On the synthetic world, with its exact oracle; the last line is JSON.

``python -m tests.bench.impact_validity [--seeds 0,1,2] [--parts abc] [--pairs 400]``; a seed's results are kept below
``--keep`` so that the parts may run one after the other.

(a) One plain gradient step on one pair alone: Spearman of the impact with the fall of the gold loss J.
(b) Training on everything against training without a group of four conflicts of one category (their weight 0, all else
    the same): Spearman of the group's impact with the rise of J, v = g_J / gamma against the Gauss-Newton v.
(c) Training on a third of the conflicts, each at weight 1, with every RETAIN pair: TPA of the top, a random and the
    bottom third by impact; and of the top third of each category. After 2, 3 and 4 epochs, since TPA moves all at once here:
    the 3 in the last line is about the demo's number of steps.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.bench.impact_world import IMPACT, OBJECTIVE, Scene, gold_loss, losses, make_scene, score, tpa, train
from trace_ray.impact.curvature import conjugate_gradients, damped, gauss_newton_product
from trace_ray.impact.direction import gold_gradient
from trace_ray.pairs import CONFLICTS

Row = dict[str, Any]
GAMMAS = (1.0, 0.1, 0.01)
"""Damping as a share of the largest eigenvalue of G; the first is the one in the last line, chosen before any result."""
SIZES = (1.0, 30.0)
"""Step sizes of (a): the median pair changes J by this x 1e-4, to first order."""

EPOCHS = (2, 3, 4)
"""Of part (c); the middle one goes into the last line."""


def identity_direction(scene: Scene) -> dict[str, torch.Tensor]:
    scene.reset()
    found = gold_gradient(scene.model, scene.gold, beta=OBJECTIVE.beta, batch_tokens=IMPACT.tokens)
    return {name: value / len(scene.gold) for name, value in found.items()}


def product_of(scene: Scene) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    def product(vector: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        rows = scene.retain_sample
        found = gauss_newton_product(scene.model, rows, vector, batch_tokens=IMPACT.tokens)
        return {name: value / len(rows) for name, value in found.items()}

    return product


def largest_eigenvalue(product: Callable[..., Any], like: dict[str, torch.Tensor], rounds: int = 12) -> float:
    """Returns it by power iteration."""
    vector, size = dict(like), 1.0
    for _ in range(rounds):
        size = float(sum(v.double().square().sum() for v in vector.values()) ** 0.5)
        vector = product({name: v / size for name, v in vector.items()})
    return float(sum(v.double().square().sum() for v in vector.values()) ** 0.5)


def conflicts_of(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["category"] in CONFLICTS]


def rank_correlation(a: list[float], b: list[float]) -> float:
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]  # no ties: these are measured numbers
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def one_step(scene: Scene, rows: list[Row], limit: int = 100) -> dict[str, float]:
    """Part (a)."""
    conflicts = sorted(conflicts_of(rows), key=lambda row: row["pair_id"])[:limit]
    impact = [row["impact"] for row in conflicts]
    scene.reset()
    before = gold_loss(scene)
    found = {}
    for size in SIZES:
        rate = size * 1e-4 / float(np.median(np.abs(impact)))
        falls = []
        for row in conflicts:
            scene.reset()
            parameters = list(scene.trainable().values())
            gradients = torch.autograd.grad(losses(scene, [row])[0], parameters)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.sub_(rate * gradient)
            falls.append(before - gold_loss(scene))
        found[f"one_step x{size:g}"] = rank_correlation(impact, falls)
        for category in CONFLICTS:
            at = [i for i, row in enumerate(conflicts) if row["category"] == category]
            found[f"one_step x{size:g} {category}"] = rank_correlation([impact[i] for i in at], [falls[i] for i in at])
    return found


def leave_out(scene: Scene, scored: dict[str, list[Row]], group_size: int = 4) -> dict[str, float]:
    """Part (b)."""
    rows = scored["identity"]
    conflicts = conflicts_of(rows)
    rng = np.random.default_rng(scene.seed)
    groups: list[list[Row]] = []
    for category in CONFLICTS:
        members = [row for row in conflicts if row["category"] == category]
        order = rng.permutation(len(members))
        chosen = [[members[i] for i in order[k : k + group_size]] for k in range(0, len(members), group_size)]
        groups += [group for group in chosen if len(group) == group_size]
    everything = {row["pair_id"]: 1.0 for row in conflicts}
    train(scene, rows, everything)
    whole = gold_loss(scene)
    rises = []
    for group in groups:
        train(scene, rows, everything | {row["pair_id"]: 0.0 for row in group})
        rises.append(gold_loss(scene) - whole)
    found: dict[str, float] = {"groups": len(groups), "J whole": whole}
    for name, some in scored.items():
        impact = {row["pair_id"]: row["impact"] for row in some}
        summed = [sum(impact[row["pair_id"]] for row in group) for group in groups]
        found[f"leave_out {name}"] = rank_correlation(summed, rises)
        for category in CONFLICTS:
            at = [i for i, group in enumerate(groups) if group[0]["category"] == category]
            found[f"leave_out {name} {category}"] = rank_correlation([summed[i] for i in at], [rises[i] for i in at])
    return found


def thirds(scene: Scene, rows: list[Row]) -> dict[str, float]:
    """Part (c)."""
    ranked = sorted(conflicts_of(rows), key=lambda row: -row["impact"])
    third = len(ranked) // 3
    order = np.random.default_rng(scene.seed).permutation(len(ranked))
    by_category = [
        row
        for category in CONFLICTS
        for some in [[r for r in ranked if r["category"] == category]]
        for row in some[: len(some) // 3]
    ]
    chosen = {
        "top_third": ranked[:third],
        "random_third": [ranked[i] for i in order[:third]],
        "bottom_third": ranked[-third:],
        "top_third_of_each_category": by_category,
        "all": ranked,
    }
    scene.reset()
    found = {"tpa_before": tpa(scene)}
    retain = [row for row in rows if row["category"] not in CONFLICTS]
    for name, some in chosen.items():
        for epochs in EPOCHS:
            train(scene, [*some, *retain], {row["pair_id"]: 1.0 for row in some}, epochs=epochs)
            found[f"tpa_{name} x{epochs}"] = tpa(scene)
        found[f"invert share {name}"] = float(np.mean([row["category"] == "INVERT" for row in some]))
    return found


def run_seed(seed: int, pairs: int, parts: str) -> dict[str, float]:
    started = time.monotonic()
    scene = make_scene(seed, pairs)
    gold = identity_direction(scene)
    gold_loss(scene)
    scored = {"identity": score(scene, gold)}
    impact = {c.value: [r["impact"] for r in scored["identity"] if r["category"] == c] for c in CONFLICTS}
    found: dict[str, float] = {f"share positive {c}": float(np.mean(np.array(v) > 0)) for c, v in impact.items()}
    if "a" in parts:
        found |= one_step(scene, scored["identity"])
    if "b" in parts:
        product = product_of(scene)
        scene.reset()
        top = largest_eigenvalue(product, gold)
        found["largest eigenvalue of G"] = top
        for share in GAMMAS:
            scene.reset()
            solved = conjugate_gradients(damped(product, share * top), gold, tolerance=1e-3, iterations=200)
            found[f"cg products {share:g}"] = len(solved.residuals) - 1
            scored[f"gauss_newton {share:g}"] = score(scene, solved.vector)
        found |= leave_out(scene, scored)
    if "c" in parts:
        found |= thirds(scene, scored["identity"])
    return found | {f"seconds {parts}": time.monotonic() - started}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--parts", default="abc")
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, default=None, help="folder that keeps each seed's results by part")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    results: dict[int, dict[str, float]] = {seed: {} for seed in seeds}
    for seed in seeds:
        for part in arguments.parts:
            kept = arguments.keep / f"{seed}-{part}-{arguments.pairs}.json" if arguments.keep else None
            if kept and kept.exists():
                results[seed] |= json.loads(kept.read_text())
                continue
            found = run_seed(seed, arguments.pairs, part)
            results[seed] |= found
            if kept:
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps(found))
            sys.stderr.write(f"seed {seed} part {part} done\n")
    names = list(dict.fromkeys(name for found in results.values() for name in found))
    print(f"| {'quantity':44} | " + " | ".join(f"seed {seed:2}" for seed in seeds) + " | mean |")
    mean = {}
    for name in names:
        values = [results[seed][name] for seed in seeds if name in results[seed]]
        mean[name] = float(np.mean(values))
        print(f"| {name:44} | " + " | ".join(f"{v:7.3f}" for v in values) + f" | {mean[name]:7.3f} |")
    print(
        json.dumps(
            {
                "spearman_one_step": mean.get("one_step x1"),
                "spearman_leave_out_identity": mean.get("leave_out identity"),
                "spearman_leave_out_gauss_newton": mean.get(f"leave_out gauss_newton {GAMMAS[0]:g}"),
                "tpa_top_third": mean.get(f"tpa_top_third x{EPOCHS[1]}"),
                "tpa_random_third": mean.get(f"tpa_random_third x{EPOCHS[1]}"),
                "tpa_bottom_third": mean.get(f"tpa_bottom_third x{EPOCHS[1]}"),
                "seeds": seeds,
            }
        )
    )


if __name__ == "__main__":
    main()
