"""Measures forwards and training steps of the policy model in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from trace_ray.config import Config, ImpactConfig, ModelConfig, RealignConfig
from trace_ray.plan.rates import GIB, TrainRates, held_bytes, peak_gib
from trace_ray.plan.units import BACKWARD, Unit, affordable, forward_units, rate, training_units, whole_peak
from trace_ray.runs.memory import PeakMemory

if TYPE_CHECKING:
    from trace_ray.model.packing import Packed

SECONDS = {"forward": 2.0, "train": 5.0}
"""At least this long is measured; steps of training differ more than batches of forwards."""
SIDES = ("chosen", "rejected")
_SAMPLE_S = 0.01


def measure_training(config: Config, rows: list[dict[str, Any]], begun: float) -> TrainRates:
    """Returns speed and peak memory of forwards in full batches, and of steps as a worker of stage 3 runs them.

    Where these would take long, smaller ones are timed, and the memory of full ones is told from theirs.

    Args:
        rows: with prompt, chosen and rejected; both responses are run, as dpo and npo on both do.
        begun: time at which the process was started.
    """
    from trace_ray.model.sharing import sharing_rule

    realign = config.realign
    model = policy_model(config, full=realign.tune == "full")
    start = time.time() - begun
    apart, pays = rows_apart(config.model, rows), sharing_rule(model)
    sequences = [row for pair in apart for row in pair]
    together = [[_joined(pair)] if pays(*_sizes(pair)) else pair for pair in apart]
    _set_threads(config.impact.num_cpus)
    token_s = seconds_a_token(model, sequences)
    forward_rate, forward_gib = _forwards(model, sequences, config.impact, token_s)
    train_rate, train_gib = _steps(model, together, realign, token_s)
    return TrainRates(
        start_s=start,
        forward_tokens_s=forward_rate,
        train_tokens_s=train_rate,
        memory_gib=forward_gib,
        train_gib=max(forward_gib, train_gib),
        parameters=model.num_parameters(),
        trained=model.num_parameters(only_trainable=True),
    )


def _set_threads(cpus: float) -> None:
    import torch

    torch.set_num_threads(max(1, int(cpus)))


def _forwards(model: Any, sequences: Sequence[Packed], impact: ImpactConfig, token_s: float) -> tuple[float, float]:
    """Returns the tokens a second of forwards, and the peak in GiB of full ones."""
    budgets = impact.tokens, affordable(impact.tokens, token_s)
    whole, timed = (forward_units(sequences, budget) for budget in budgets)
    return _timed(lambda unit: forward(model, unit), timed, whole, SECONDS["forward"])


def _steps(
    model: Any, pairs: Sequence[Sequence[Packed]], realign: RealignConfig, token_s: float
) -> tuple[float, float]:
    """Returns the tokens a second of training, and the peak in GiB of whole micro-steps, without an optimizer."""
    from trace_ray.model.modes import checkpoint_layers, training_mode

    _set_threads(realign.num_cpus)
    if realign.gradient_checkpointing:
        checkpoint_layers(model, realign.gradient_checkpointing)
        training_mode(model)
    budgets = realign.tokens, affordable(realign.tokens, BACKWARD * token_s)
    size = -(-realign.batch // realign.workers)
    whole, timed = (training_units(pairs, size, budget, realign.forward_overhead) for budget in budgets)
    _train(model, min(timed, key=lambda unit: unit.tokens))  # its gradients stay, whatever is run
    return _timed(lambda unit: _train(model, unit), timed, whole, SECONDS["train"])


def policy_model(config: Config, *, full: bool) -> Any:
    """Returns the model, all of it to be trained or a new adapter on it."""
    from trace_ray.model.loading import load_model, new_adapter

    model = load_model(config.model)
    return model.requires_grad_(True) if full else new_adapter(model, config.lora, config.impact.seed)


def rows_apart(model: ModelConfig, rows: list[dict[str, Any]]) -> list[list[Packed]]:
    """Returns the pairs that the model takes, each as two rows of one response."""
    from trace_ray.chat.text import accepted
    from trace_ray.model.loading import load_chat_tokenizer
    from trace_ray.model.packing import Packed

    texts = [{side: row[side] for side in SIDES} for row in rows]
    pairs = accepted(load_chat_tokenizer(model).pairs([row["prompt"] for row in rows], texts))
    return [[Packed(pair.prompt_ids, (pair.response_ids[side],)) for side in SIDES] for pair in pairs]


def _joined(pair: Sequence[Packed]) -> Packed:
    from trace_ray.model.packing import Packed

    return Packed(pair[0].prompt_ids, tuple(ids for row in pair for ids in row.response_ids))


def _sizes(pair: Sequence[Packed]) -> tuple[int, list[int]]:
    """Tokens of the prompt, and of each response."""
    return len(pair[0].prompt_ids), [len(ids) for row in pair for ids in row.response_ids]


def seconds_a_token(model: Any, sequences: Sequence[Packed]) -> float:
    """Returns what a token of a forward takes, of one sequence of middle length; its first run is a warm-up."""
    middle = sorted(sequences, key=len)[len(sequences) // 2]
    unit = Unit([[middle]], len(middle))
    forward(model, unit)
    return 1 / rate(lambda unit: forward(model, unit), [unit], 0.0)


def forward(model: Any, unit: Unit) -> None:
    """Runs a forward, without gradients."""
    import torch

    with torch.inference_mode():
        _log_probs(model, unit)


def _train(model: Any, unit: Unit) -> None:
    _log_probs(model, unit).backward()


def _log_probs(model: Any, unit: Unit) -> Any:
    from trace_ray.model.log_probs import response_log_probs
    from trace_ray.model.packing import pack

    return sum(response_log_probs(model, pack(group)).sum() for group in unit.groups)


def _timed(
    run: Callable[[Unit], None], timed: Sequence[Unit], whole: Sequence[Unit], least_s: float
) -> tuple[float, float]:
    """Returns the tokens a second of some units, and the peak in GiB of whole ones."""
    held = held_bytes()
    with PeakMemory(_SAMPLE_S, held_bytes) as memory:
        speed = rate(run, timed, least_s)
    return speed, max(peak_gib(), whole_peak(held, memory.peak_bytes, timed, whole) / GIB)
