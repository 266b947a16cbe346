"""What is watched of each step: summed over micro-batches and workers in one small tensor, read once, then named."""

from __future__ import annotations

from typing import Any

import torch

from trace_ray.model.transfer import placed, sent
from trace_ray.objective.batch import MicroBatch
from trace_ray.objective.terms import PairLosses
from trace_ray.pairs import TRAINED

_SUMS = ("pairs", "loss", "weight", "weighted_loss", "raised", "lowered")
_COUNTS = ("tokens", "tokens_run", "padded_tokens", "asks")


class StepSums:
    """Sums of one step on one worker; ``tensor`` of all workers add up.

    Nothing of it is read before the step's end: a figure that is read waits for all that its card still has to do.

    Args:
        device: where the losses are.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.by_category = torch.zeros(len(TRAINED), len(_SUMS), dtype=torch.float64, device=self.device)
        self.counts = [0] * len(_COUNTS)
        self.grad_norm = torch.zeros((), dtype=torch.float64, device=self.device)

    def add(self, batch: MicroBatch, losses: PairLosses) -> None:
        """Counts one micro-batch."""
        self.counts[:3] = [old + new for old, new in zip(self.counts, batch.tokens(), strict=False)]
        for number, name in enumerate(TRAINED):
            at = [i for i, category in enumerate(losses.category) if category == name]
            if at:
                mine = placed(at, torch.long, self.device)
                loss, weight = losses.loss_P[mine].detach(), losses.weight_P[mine]
                sums = (loss, weight, loss * weight, losses.raised_P[mine], losses.lowered_P[mine])
                pairs = torch.full_like(loss, 1.0)
                self.by_category[number] += torch.stack([value.sum() for value in (pairs, *sums)]).double()

    def note_norm(self, norm: torch.Tensor) -> None:
        """Notes the gradient's norm, which all workers share: to be called on one of them."""
        self.grad_norm = sent(norm, self.device).double()

    def ask(self) -> None:
        """Raises this worker's flag."""
        self.counts[-1] = 1

    def tensor(self) -> torch.Tensor:
        counts = placed(self.counts, torch.float64, self.device)
        return torch.cat([self.by_category.flatten(), self.grad_norm[None], counts])


def named_figures(summed: torch.Tensor) -> dict[str, Any]:
    """Returns the figures of a step from the sum of all workers' ``StepSums.tensor``.

    For each category with pairs in the step: their number, mean loss (for a kl term that is the KL, in nats a token),
    mean weight, weighted loss and, where its term has them, implicit rewards and their margin. Tokens are those of all
    sequences: a prompt that two share counts twice. Padding is the share of the tokens run that was padding.

    Args:
        summed: on the host.
    """
    watched = len(TRAINED) * len(_SUMS)
    by_category = summed[:watched].view(len(TRAINED), len(_SUMS))
    figures: dict[str, Any] = {"grad_norm": float(summed[watched])}
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
