"""The impact score by its field's yardsticks, beside a floor and a plainer score; the last line is JSON.

    python -m tests.bench.impact_lds [--seeds 0,1,2] [--subsets 32] [--pairs 400] [--share 0.1]

LDS: the model is trained on random halves of the conflicts (with every RETAIN pair, an epoch from theta_ref); how does the
sum of a half's scores rank the gold loss that it ends with? Tail patch (Chang et al. 2024, arXiv 2410.17413): one more step,
from the model that all of them trained, on the conflicts of highest score; by how much does it lower the gold loss? Left out:
the gold loss after training without the tenth of highest score, above that of all conflicts. Random conflicts beside them say
how much any do. Scores: impact (v . grad of the pair's loss, v = g_J / gamma), the cosine of the same two gradients, and BM25
of the pair's tokens against the gold batch's, which knows no model. Intervals are of 95 %: LDS by a bootstrap over the halves,
the others by Student's t over seeds.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tests.bench.impact_validity import conflicts_of, identity_direction
from tests.bench.impact_world import LEARNING_RATE, STEP_PAIRS, Scene, gold_loss, losses, make_scene, score, train
from trace_ray.runtime import environment
from trace_ray.study.results import estimate
from trace_ray.study.validity import Trial, bm25, lds, lds_gain, random_subsets, tail

Row = dict[str, Any]
Floats = npt.NDArray[np.float64]
FLOOR = "bm25"
RANDOM_DRAWS = 3


def scores_of(scene: Scene, rows: list[Row], direction: dict[str, torch.Tensor]) -> dict[str, Floats]:
    """Returns each score of the conflicts, the higher the more training on the pair should lower the gold loss."""
    documents = [row["prompt_ids"] + row["chosen_ids"] + row["rejected_ids"] for row in rows]
    queries = [row["prompt_ids"] + row["preferred_ids"] for row in scene.gold]
    return {
        "impact": np.array([row["impact"] for row in rows]),
        "cosine": np.array([_cosine(scene, row, direction) for row in rows]),
        FLOOR: bm25(documents, queries),
    }


def _cosine(scene: Scene, row: Row, direction: dict[str, torch.Tensor]) -> float:
    trainable = scene.trainable()
    found = torch.autograd.grad(losses(scene, [row])[0], list(trainable.values()))
    mine, gold = (torch.cat([g.flatten() for g in some]) for some in (found, [direction[name] for name in trainable]))
    return float(torch.nn.functional.cosine_similarity(mine, gold, dim=0))


def outcome(scene: Scene, rows: list[Row], conflicts: list[Row], kept_N: npt.NDArray[np.bool_]) -> float:
    """Returns the gold loss after training on the kept conflicts and every RETAIN pair."""
    kept = {row["pair_id"]: float(keep) for row, keep in zip(conflicts, kept_N, strict=True)}
    train(scene, rows, kept)
    return gold_loss(scene)


def patched(scene: Scene, some: list[Row], before: float) -> float:
    """Returns by how much one step of AdamW on some pairs lowers the gold loss; the model is left as it was."""
    trainable = scene.trainable()
    kept = [parameter.detach().clone() for parameter in trainable.values()]
    torch.autograd.backward(losses(scene, some).mean())
    torch.optim.AdamW(trainable.values(), lr=LEARNING_RATE, weight_decay=0.0).step()
    fall = before - gold_loss(scene)
    with torch.no_grad():
        for parameter, value in zip(trainable.values(), kept, strict=True):
            parameter.copy_(value)
            parameter.grad = None
    return fall


def run_seed(
    seed: int, pairs: int, subsets: int, share: float
) -> tuple[Trial, dict[str, Floats], dict[str, tuple[float, float]]]:
    """Returns the trainings on halves, the scores, and {score: (tail patch, rise of the gold loss with its tenth left out)}."""
    scene = make_scene(seed, pairs)
    direction = identity_direction(scene)
    gold_loss(scene)
    rows = score(scene, direction)
    conflicts = conflicts_of(rows)
    scene.reset()
    scores = scores_of(scene, conflicts, direction)
    kept_MN = random_subsets(len(conflicts), subsets, 0.5, seed)
    trial = Trial(kept_MN, -np.array([outcome(scene, rows, conflicts, kept_N) for kept_N in kept_MN]))
    whole = outcome(scene, rows, conflicts, np.ones(len(conflicts), bool))
    rng = np.random.default_rng(seed)
    ranked = scores | {f"random {i}": rng.random(len(conflicts)) for i in range(RANDOM_DRAWS)}
    best = {name: np.argsort(-score_N, kind="stable")[:STEP_PAIRS] for name, score_N in ranked.items()}
    falls = {name: patched(scene, [conflicts[i] for i in at], whole) for name, at in best.items()}
    rises = {n: outcome(scene, rows, conflicts, tail(score_N, share)) - whole for n, score_N in ranked.items()}
    both = {name: (falls[name], rises[name]) for name in ranked}
    drawn = np.mean([both.pop(f"random {i}") for i in range(RANDOM_DRAWS)], axis=0)
    return trial, scores, both | {"random": (float(drawn[0]), float(drawn[1]))}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--subsets", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--share", type=float, default=0.1)
    arguments = parser.parse_args()
    environment.prepare()
    torch.set_num_threads(1)
    found = []
    for seed in map(int, arguments.seeds.split(",")):
        found.append(run_seed(seed, arguments.pairs, arguments.subsets, arguments.share))
        print(f"seed {seed}: {len(found[-1][1][FLOOR])} conflicts", flush=True)
    trials = [trial for trial, _, _ in found]
    told: dict[str, dict[str, Any]] = {}
    print(
        "| score | LDS | above BM25's | tail patch: fall of the gold loss | left out: rise of it |\n|---|---|---|---|---|"
    )
    for name in (*found[0][1], "random"):
        patch, rise = (estimate([both[name][i] for _, _, both in found]) for i in (0, 1))
        told[name] = {"patch": patch.mean, "patch_half": patch.half, "left_out": rise.mean, "left_out_half": rise.half}
        shown = ["", ""]
        if name != "random":
            mine, floor = ([scores[which] for _, scores, _ in found] for which in (name, FLOOR))
            value, gain = lds(trials, mine), lds_gain(trials, mine, floor)
            told[name] |= {"lds": list(value), "lds_gain": list(gain)}
            shown = [f"{e.value:.2f} ({e.low:.2f} to {e.high:.2f})" for e in (value, gain)]
        print(f"| {name} | {' | '.join(shown)} | {patch.text(4)} | {rise.text(4)} |")
    print(json.dumps({"seeds": arguments.seeds, "subsets": arguments.subsets, "scores": told}))


if __name__ == "__main__":
    main()
