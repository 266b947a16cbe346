"""The error of `realign.kl_reference=top_k`: the KL of a trained run to its base, the base stored at k tokens or whole.

    python tests/bench/top_k.py runs/smollm2-trace --pairs 64

Takes the chosen answers of the run's RETAIN pairs. For each k: the share of the KL that is lost (what is not kept counts as
one token, so it can only fall short), and how far the gradient by the policy's logits is off, as a share of its length.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch

from trace_ray.config import ModelConfig, StorageConfig
from trace_ray.model.head import OutputHead
from trace_ray.model.loading import load_adapter, load_model
from trace_ray.model.packing import hidden_states, pack_each
from trace_ray.objective.losses import token_kl, top_k_kl
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate
from trace_ray.storage.staging import download_folder

SIZES = (8, 16, 32, 64, 128, 256, 1024)


def main() -> None:
    """Prints a line for each k and one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--pairs", type=int, default=64)
    arguments = parser.parse_args()
    run = Run(locate(arguments.run, StorageConfig()))
    base = ModelConfig(path=run.model.manifest()["base model"])
    with download_folder(run.model.place / "adapter") as folder:
        model = load_adapter(load_model(base), folder, trainable=False).eval()
    rows = run.scored.read(["category", "prompt_ids", "chosen_ids"]).to_pylist()
    rows = [row for row in rows if row["category"] == "RETAIN"][: arguments.pairs]
    head = OutputHead(model)
    exact, slope, tokens = 0.0, 0.0, 0
    found = {k: [0.0, 0.0] for k in SIZES}
    for row in rows:
        batch = pack_each([(row["prompt_ids"], row["chosen_ids"])])
        with torch.inference_mode():
            policy_NV = head.logits(hidden_states(model, batch))
            with model.disable_adapter():
                reference_NV = head.logits(hidden_states(model, batch))
        whole, slope_NV = value_and_slope(policy_NV, lambda z, r=reference_NV: token_kl(z, r))
        exact, slope, tokens = exact + whole, slope + float(slope_NV.pow(2).sum()), tokens + len(policy_NV)
        log_probs, ids = reference_NV.log_softmax(-1).topk(max(SIZES))
        for k in SIZES:
            kept, ids_k = log_probs[:, :k], ids[:, :k]
            short, short_NV = value_and_slope(policy_NV, lambda z, i=ids_k, p=kept: top_k_kl(z, i, p))
            found[k][0] += whole - short
            found[k][1] += float((short_NV - slope_NV).pow(2).sum())
    result: dict[str, Any] = {"pairs": len(rows), "tokens": tokens, "kl": round(exact / tokens, 5)}
    for k, (lost, off) in found.items():
        result[f"k={k}"] = {"kl_lost": round(lost / exact, 4), "gradient_error": round((off / slope) ** 0.5, 4)}
        print(f"k {k:5}: {lost / exact:7.2%} of the KL lost, gradient off by {(off / slope) ** 0.5:.1%}")
    print(json.dumps(result))


def value_and_slope(policy_NV: torch.Tensor, loss: Any) -> tuple[float, torch.Tensor]:
    """Returns the loss summed over tokens and its gradient by the policy's logits."""
    at = policy_NV.clone().requires_grad_()
    value = loss(at).sum()
    return float(value.detach()), torch.autograd.grad(value, at)[0]


if __name__ == "__main__":
    main()
