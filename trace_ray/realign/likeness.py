"""How like a merged model is to the trained one, against what rounding alone explains.

Log-probs of a bfloat16 model differ by 0.1 from one order of the same sums to another, so no bound on differences can
tell a good merge from a bad one. Three runs of one probe can: the trained model in float32 arithmetic is the truth, the
trained model in its own dtype shows what rounding does, the merged one may be a few times as far and no further.

Shapes: N tokens of the probe, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

KL_FLOOR = 1e-6
"""Nats a token: two orders of float32 sums."""
KL_FACTOR = 8.0
"""A merged weight is rounded as its products are: about twice the KL was seen, never four times."""
MARGIN_FLOOR = 1e-3
UNEXPLAINED = 0.01
"""Share of tokens whose first choice may differ by more than rounding moves log-probs."""


@dataclass(frozen=True)
class Likeness:
    """The merged model beside the trained one.

    Args:
        kl: mean of KL(trained || merged) over the probe's tokens, in nats; rounding_kl: of KL(trained || trained in its
            own dtype).
        same_choice: share of tokens with the same first choice; rounding_choice: of the trained model in its own dtype.
        unexplained: share of tokens whose first choice differs by more than rounding moves a log-prob there.
    """

    kl: float
    rounding_kl: float
    same_choice: float
    rounding_choice: float
    unexplained: float

    @property
    def kl_limit(self) -> float:
        return KL_FLOOR + KL_FACTOR * self.rounding_kl

    @property
    def alike(self) -> bool:
        """Whether rounding explains all of the difference; never where a figure is not finite."""
        return self.kl <= self.kl_limit and self.unexplained <= UNEXPLAINED

    def said(self) -> str:
        """Returns the figures in words.

        >>> Likeness(2e-4, 1e-4, 0.992, 0.995, 0.0).said()
        'KL 0.0002 nats a token where rounding explains 0.0008, the same first choice in 99.2 % where rounding keeps 99.5 %'
        """
        return (
            f"KL {self.kl:.2g} nats a token where rounding explains {self.kl_limit:.2g}, the same first choice in "
            f"{100 * self.same_choice:.1f} % where rounding keeps {100 * self.rounding_choice:.1f} %"
        )

    def facts(self) -> dict[str, float]:
        """Returns what a manifest keeps."""
        return {
            "merged_kl": self.kl,
            "rounding_kl": self.rounding_kl,
            "merged_same_choice": self.same_choice,
            "rounding_same_choice": self.rounding_choice,
        }


def likeness(exact_NV: torch.Tensor, rounded_NV: torch.Tensor, merged_NV: torch.Tensor) -> Likeness:
    """Returns how like the merged model is.

    Args:
        exact_NV: log-probs of the trained model in float32 arithmetic; rounded_NV: in its own dtype; merged_NV: of the
            merged model as it is loaded.
    """
    exact_N, merged_N = exact_NV.argmax(-1), merged_NV.argmax(-1)
    margin_N = (exact_NV.gather(-1, exact_N[:, None]) - exact_NV.gather(-1, merged_N[:, None]))[:, 0]
    # A swap of two choices takes both log-probs; the merged model may be as far again as its KL's factor allows.
    moved = 2 * KL_FACTOR**0.5 * float((rounded_NV - exact_NV).abs().amax(-1).mean()) + MARGIN_FLOOR
    return Likeness(
        kl=_kl(exact_NV, merged_NV),
        rounding_kl=_kl(exact_NV, rounded_NV),
        same_choice=float((exact_N == merged_N).double().mean()),
        rounding_choice=float((exact_N == rounded_NV.argmax(-1)).double().mean()),
        unexplained=float((margin_N > moved).double().mean()),
    )


def _kl(of_NV: torch.Tensor, to_NV: torch.Tensor) -> float:
    """Mean KL in double precision, a token at a time: in float32 the sum of the probabilities alone is off by 1e-7."""
    each = []
    for pair in zip(of_NV, to_NV, strict=True):
        of_V, to_V = (one_V.double().log_softmax(-1) for one_V in pair)
        each.append(float((of_V.exp() * (of_V - to_V)).sum()))
    return sum(each) / max(1, len(each))


def probe_log_probs(model: Any, probe: Sequence[Sequence[int]]) -> torch.Tensor:
    """Returns next-token log-probs at every token of the probe's sequences, in float32, shape (N, V)."""
    with torch.inference_mode():
        logits = [model(torch.tensor([list(ids)])).logits[0].float() for ids in probe]
    return torch.cat(logits).log_softmax(-1)


@contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """Has a model compute in float32, a layer's weights at a time: all of them would take twice a bfloat16 model's memory."""
    narrow: dict[torch.nn.Parameter, torch.Tensor] = {}

    def widen(layer: torch.nn.Module, _: Any) -> None:
        for parameter in layer.parameters():
            narrow[parameter], parameter.data = parameter.data, parameter.data.float()

    def restore(layer: torch.nn.Module, *_: Any) -> None:
        for parameter in layer.parameters():
            parameter.data = narrow.pop(parameter)

    hooks = [hook for layer in _layers(model) for hook in _around(layer, widen, restore)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _around(layer: torch.nn.Module, before: Any, after: Any) -> Iterator[Any]:
    yield layer.register_forward_pre_hook(before)
    yield layer.register_forward_hook(after)


def _layers(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Yields the layers of the outermost lists, and around them the modules that hold no list."""
    if isinstance(module, torch.nn.ModuleList):
        yield from module
    elif any(isinstance(inner, torch.nn.ModuleList) for inner in module.modules()):
        for child in module.children():
            yield from _layers(child)
    else:
        yield module


def merged_once(model: Any) -> Any:
    """Returns the base with a PEFT model's adapter merged: module by module in float32, each weight rounded once.

    Raises: ValueError where a merged weight is not finite.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            held = [(parameter, parameter.dtype) for parameter in module.parameters()]
            for parameter, _ in held:
                parameter.data = parameter.data.float()
            module.merge(safe_merge=True)
            for parameter, dtype in held:
                parameter.data = parameter.data.to(dtype)
    return model.unload()
