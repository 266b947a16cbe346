"""What makes an optimizer step: DeepSpeed over all workers, or torch alone in this process. Training knows no more of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from trace_ray.config import RealignConfig
from trace_ray.model.modes import training_mode
from trace_ray.objective.batch import SequenceGroup
from trace_ray.realign.policy_module import HybridPolicy
from trace_ray.realign.schedule import make_optimizer
from trace_ray.realign.weights import plain_grad_norm


class Engine(Protocol):
    """A policy with its optimizer and schedule, as one of the workers holds it."""

    @property
    def device(self) -> torch.device: ...

    def __call__(self, groups: Sequence[SequenceGroup]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns (log pi(y|x), mean token KL) of each sequence, as ``HybridPolicy``."""
        ...

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Adds a micro-batch's part of the step's loss; the parts of all workers add up. ``last``: of this step."""
        ...

    def step(self) -> tuple[float, torch.Tensor]:
        """Moves the weights; returns the rate that the step took, and the gradient's norm before clipping, unread."""
        ...

    def summed(self, value: torch.Tensor) -> torch.Tensor:
        """Returns the sum of all workers' ``value``, on CPU: the one time that a step waits for its card."""
        ...


class PlainEngine:
    """torch's AdamW in this process, the model where it is.

    Args:
        policy: its trainable parameters are trained; put into training mode.
        realign: rate, schedule, clipping; steps: of the run.
    """

    def __init__(self, policy: HybridPolicy, realign: RealignConfig, steps: int) -> None:
        self.policy, self.max_grad_norm = policy, realign.max_grad_norm or math.inf
        self.trainable = [p for p in policy.parameters() if p.requires_grad]
        self.device = self.trainable[0].device
        self.optimizer, self.schedule = make_optimizer(self.trainable, realign, steps, self.device.type)
        training_mode(policy)

    def __call__(self, groups: Sequence[SequenceGroup]) -> tuple[torch.Tensor, torch.Tensor]:
        logp_S, kl_S = self.policy(groups)
        return logp_S, kl_S

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:  # noqa: ARG002 - gradients add up until the step
        torch.autograd.backward(loss)

    def step(self) -> tuple[float, torch.Tensor]:
        norm = torch.nn.utils.clip_grad_norm_(self.trainable, self.max_grad_norm)
        rate = float(self.schedule.get_last_lr()[0])
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return rate, norm

    def summed(self, value: torch.Tensor) -> torch.Tensor:
        return value.cpu()


class DeepSpeedEngine:
    """DeepSpeed's engine, at any ZeRO stage, on one worker of the process group.

    Args:
        deepspeed: of ``setup.initialize``; model: whose weights it trains.
    """

    def __init__(self, deepspeed: Any, model: Any) -> None:
        self.deepspeed, self.model = deepspeed, model
        self.device: torch.device = deepspeed.device

    def __call__(self, groups: Sequence[SequenceGroup]) -> tuple[torch.Tensor, torch.Tensor]:
        logp_S, kl_S = self.deepspeed(groups)
        return logp_S, kl_S

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        self.deepspeed.set_gradient_accumulation_boundary(last)
        self.deepspeed.backward(loss * self.deepspeed.world_size)  # which it averages over workers

    def step(self) -> tuple[float, torch.Tensor]:
        norm, rate = plain_grad_norm(self.deepspeed, self.model), self.deepspeed.get_lr()[0]
        self.deepspeed.step()  # which sets the next step's rate
        norm = self.deepspeed.get_global_grad_norm() if norm is None else norm
        return rate, torch.as_tensor(norm)

    def summed(self, value: torch.Tensor) -> torch.Tensor:
        placed = value.to(self.device)
        torch.distributed.all_reduce(placed)
        return placed.cpu()
