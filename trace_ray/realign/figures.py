"""What is watched of each step: summed over micro-batches and workers in one small tensor, then named."""

from __future__ import annotations

from typing import Any

import torch

from trace_ray.objective.batch import MicroBatch
from trace_ray.objective.terms import PairLosses
from trace_ray.pairs import TRAINED

_SUMS = ("pairs", "loss", "weight", "weighted_loss", "raised", "lowered")
_COUNTS = ("tokens", "tokens_run", "padded_tokens", "asks")


class StepSums:
    """Sums of one step on one worker; ``tensor`` of all workers add up."""

    def __init__(self) -> None:
        self.by_category = torch.zeros(len(TRAINED), len(_SUMS), dtype=torch.float64)
        self.counts = torch.zeros(len(_COUNTS), dtype=torch.float64)

    def add(self, batch: MicroBatch, losses: PairLosses) -> None:
        """Counts one micro-batch."""
        self.counts[:3] += torch.tensor(batch.tokens(), dtype=torch.float64)
        for number, name in enumerate(TRAINED):
            at = [i for i, category in enumerate(losses.category) if category == name]
            if at:
                loss, weight = losses.loss_P[at].detach(), losses.weight_P[at]
                sums = (loss, weight, loss * weight, losses.raised_P[at], losses.lowered_P[at])
                pairs = torch.full_like(loss, 1.0)
                self.by_category[number] += torch.stack([value.sum() for value in (pairs, *sums)]).double().cpu()

    def tensor(self) -> torch.Tensor:
        return torch.cat([self.by_category.flatten(), self.counts])


def named_figures(summed: torch.Tensor) -> dict[str, Any]:
    """Returns the figures of a step from the sum of all workers' ``StepSums.tensor``.

    For each category with pairs in the step: their number, mean loss (for a kl term that is the KL, in nats a token),
    mean weight, weighted loss and, where its term has them, implicit rewards and their margin. Tokens are those of all
    sequences: a prompt that two share counts twice. Padding is the share of the tokens run that was padding.
    """
    by_category = summed[: -len(_COUNTS)].view(len(TRAINED), len(_SUMS))
    figures: dict[str, Any] = {}
    for name, sums in zip(TRAINED, by_category.tolist(), strict=True):
        pairs, loss, weight, weighted, raised, lowered = sums
        if pairs:
            figures |= {f"{name}/pairs": int(pairs), f"{name}/loss": loss / pairs, f"{name}/weight": weight / pairs}
            figures |= {f"{name}/weighted_loss": weighted / pairs, f"{name}/margin": (raised - lowered) / pairs}
            figures |= {f"{name}/reward_raised": raised / pairs, f"{name}/reward_lowered": lowered / pairs}
    tokens, run, padded, _ = summed[-len(_COUNTS) :].tolist()
    return figures | {"tokens": int(tokens), "padding": round(1 - run / max(1.0, padded), 4)}


def gpu_busy() -> float | None:
    """Returns the share of the last second or so in which this worker's GPU ran kernels; None where nothing tells.

    The driver's own measure (NVML): any kernel counts, however small.
    """
    try:
        return torch.cuda.utilization() / 100
    except (ModuleNotFoundError, RuntimeError, OSError):  # no NVML, or a slice of a card
        return None


def peak_memory_gib(*, gpu: bool) -> float:
    """Returns this worker's peak memory: of the GPU's allocator, or of the process."""
    if gpu:
        return float(torch.cuda.max_memory_allocated()) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
