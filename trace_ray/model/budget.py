"""Tokens of one forward: given, or found by two small trials on the card; halved where a batch does not fit after all.

What is scored does not depend on it: every row stands for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from trace_ray.config.fields import CPU_TOKENS
from trace_ray.errors import UserError
from trace_ray.model.fit import STEP, fitting_tokens, line_through
from trace_ray.model.flat import batch_places, runs_flat
from trace_ray.model.head import OutputHead
from trace_ray.model.kept import BUDGET, kept
from trace_ray.model.log_probs import response_log_probs
from trace_ray.model.packing import Packed, PackedBatch, pack

TRIALS = (1024, 2048)
"""Tokens of the trials."""
_ROW = 512
T = TypeVar("T")


@dataclass
class TokenBudget:
    """Tokens of one forward, padding included.

    Args:
        tokens: it shrinks where a batch did not fit, and stays so.
        setting: where it comes from, as the user calls it; longer: how a row of too many tokens is made to fit.
    """

    tokens: int
    setting: str = "impact.batch_tokens"
    remedy: str = "lower model.max_length, or set impact.gradient_checkpointing=true"

    @classmethod
    def of(cls, tokens: int | TokenBudget) -> TokenBudget:
        return tokens if isinstance(tokens, TokenBudget) else cls(tokens)

    def run(self, batches: Sequence[list[int]], run: Callable[[list[int]], T]) -> Iterator[tuple[list[int], T]]:
        """Yields (places, what ``run`` returns of them) of each batch, which is cut in two where it does not fit.

        Raises: UserError where a single place does not fit.
        """
        planned = self.tokens
        for places in batches:
            yield from self._fitted(places, planned, run)

    def _fitted(self, places: list[int], planned: int, run: Callable[[list[int]], T]) -> Iterator[tuple[list[int], T]]:
        """Yields as ``run``; ``planned``: the tokens for which the places were put together."""
        if planned <= self.tokens or len(places) == 1:
            try:
                found = [run(places)]
            except torch.OutOfMemoryError:  # handled below, where nothing that it held is held any more
                found = []
            if found:
                yield places, found[0]
                return
            self._shrink(planned, alone=len(places) == 1)
        half = -(-len(places) // 2)
        for part in (places[:half], places[half:]):
            yield from self._fitted(part, max(1, planned // 2), run)

    def _shrink(self, planned: int, *, alone: bool) -> None:
        if alone:
            raise UserError(self.setting, self.tokens, f"the card has no room for a single row: {self.remedy}")
        self.tokens = min(self.tokens, max(1, planned // 2))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def run_batches(
    rows: Sequence[Packed],
    model: Any,
    budget: TokenBudget,
    run: Callable[[list[int], PackedBatch], T],
    *,
    padded: bool = False,
) -> Iterator[tuple[list[int], T]]:
    """Yields (places of the rows, what ``run`` returns of these places and their batch on the model's device).

    Args:
        padded: whether rows are padded whatever the model runs.
    """
    flat, device = runs_flat(model) and not padded, next(model.parameters()).device
    batches = batch_places([len(row) for row in rows], budget.tokens, flat=flat)
    yield from budget.run(batches, lambda places: run(places, pack([rows[i] for i in places], flat=flat).to(device)))


def kept_budget(
    key: str,
    asked: int | str,
    device: torch.device,
    run: Callable[[int], object],
    *,
    kind: str = BUDGET,
    gpus: float = 1.0,
    longest: int = 0,
    **told: str,
) -> TokenBudget:
    """Returns the tokens that this process runs at once: found when they are first asked for, and no more what did not fit.

    Args:
        key: of the model and the settings that they were found with; kind: of work.
        asked, device, run, gpus, longest: as ``found_tokens`` takes them.
        told: ``setting`` and ``remedy`` of the budget.
    """
    found: TokenBudget = kept(
        kind, key, lambda: TokenBudget(found_tokens(asked, device, run, gpus=gpus, longest=longest), **told)
    )
    return found


def found_tokens(
    asked: int | str, device: torch.device, run: Callable[[int], object], *, gpus: float = 1.0, longest: int = 0
) -> int:
    """Returns the tokens that are asked for, or for ``auto`` those that fit the device.

    Args:
        run: runs so many tokens once, as the work will.
        gpus: part of the card that is this process'; longest: tokens of the longest row.
    """
    if not isinstance(asked, str):
        return asked
    if device.type != "cuda":
        return CPU_TOKENS
    return tokens_by_trials(run, _peak_bytes, card_bytes(device, gpus), longest)


def tokens_by_trials(
    run: Callable[[int], object], peak: Callable[[Callable[[], object]], float], card: float, longest: int
) -> int:
    """Returns the tokens that fit, by two trials.

    Args:
        peak: runs something and tells the bytes that were held at most.
        card: bytes of it.
    """
    try:
        run(TRIALS[0])  # what is compiled, or made once, is no token's
        first, second = ((tokens, peak(lambda tokens=tokens: run(tokens))) for tokens in TRIALS)  # type: ignore[misc]
    except torch.OutOfMemoryError:
        return max(STEP, longest)
    return fitting_tokens(card, *line_through(first, second), longest)


def trial_batch(model: Any, tokens: int) -> PackedBatch:
    """Returns a batch of so many tokens as the model runs them, on its device: prompts and responses of one token's id."""
    side = [1] * (_ROW // 2)
    rows = [Packed(side, (side,))] * max(1, tokens // _ROW)
    return pack(rows, flat=runs_flat(model)).to(next(model.parameters()).device)


def backward_once(model: Any, tokens: int, *, sums: bool = True) -> None:
    """Runs so many tokens forward and back to what requires grad; no gradient is kept.

    Args:
        sums: beside float32 sums of the gradients, as the gold batch's are made.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    held = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in trained if sums]
    batch = trial_batch(model, tokens)
    logp = response_log_probs(model, batch, OutputHead(model)).sum()
    torch.autograd.grad(logp, trained, allow_unused=True)
    del held


def _peak_bytes(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return float(torch.cuda.max_memory_allocated())


def card_bytes(device: torch.device, gpus: float = 1.0) -> float:
    """Returns the bytes of a card, or of this process' part of it, that others leave."""
    free, total = torch.cuda.mem_get_info(device)
    return min(total * min(1.0, gpus or 1.0), free + torch.cuda.memory_reserved(device))
