"""Measures forwards and training steps of the policy model in one process."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from trace_ray.config import Config
from trace_ray.model.batches import token_batches
from trace_ray.plan.rates import TrainRates, peak_gib
from trace_ray.realign.layout import plan_step

SECONDS = {"forward": 6.0, "train": 15.0}
"""At least this long is measured; steps of training differ more than batches of forwards."""
SIDES = ("chosen", "rejected")


def measure_training(config: Config, rows: list[dict[str, Any]], begun: float) -> TrainRates:
    """Returns speed and peak memory of forwards in full batches, and of steps as a worker of stage 3 runs them.

    Args:
        rows: with prompt, chosen and rejected; both responses are run, as dpo and npo on both do.
        begun: time at which the process was started.
    """
    import torch

    from trace_ray.chat.text import accepted
    from trace_ray.model.loading import load_chat_tokenizer, load_model, new_adapter
    from trace_ray.model.log_probs import response_log_probs
    from trace_ray.model.modes import training_mode
    from trace_ray.model.packing import pack_each

    impact, realign = config.impact, config.realign
    model = load_model(config.model)
    full = realign.tune == "full"
    model = model.requires_grad_(True) if full else new_adapter(model, config.lora, impact.seed)
    start = time.time() - begun
    pairs = load_chat_tokenizer(config.model).pairs(
        [row["prompt"] for row in rows], [{side: row[side] for side in SIDES} for row in rows]
    )
    sequences = [(pair.prompt_ids, pair.response_ids[side]) for pair in accepted(pairs) for side in SIDES]
    lengths = [len(prompt) + len(response) for prompt, response in sequences]

    def log_probs(indices: Sequence[int]) -> Any:
        return response_log_probs(model, pack_each(sequences[i] for i in indices))

    def forward(indices: Sequence[int]) -> None:
        with torch.inference_mode():
            log_probs(indices)

    def train(samples: Sequence[int]) -> None:
        pair_lengths = [lengths[2 * i : 2 * i + 2] for i in samples]
        anchored = [[False, False]] * len(samples)
        layout = {"workers": 1, "budget": realign.micro_tokens, "overhead": realign.forward_overhead}
        for micro_step in plan_step(pair_lengths, anchored, **layout):
            flat = [2 * samples[i] + side for i in micro_step.samples[0] for side in (0, 1)]
            loss: Any = sum(log_probs([flat[s] for s in group]).sum() for group in micro_step.groups[0])
            loss.backward()

    torch.set_num_threads(max(1, int(impact.num_cpus)))
    forward_rate = _rate(forward, token_batches(lengths, impact.batch_tokens), lengths, SECONDS["forward"])
    memory = peak_gib()
    torch.set_num_threads(max(1, int(realign.num_cpus)))
    if realign.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        training_mode(model)
    size = -(-realign.batch // realign.workers)
    steps = [list(range(at, min(at + size, len(rows)))) for at in range(0, len(rows), size)]
    sums = [sum(lengths[2 * i : 2 * i + 2]) for i in range(len(rows))]
    train_rate = _rate(train, steps, sums, SECONDS["train"])
    return TrainRates(
        start_s=start,
        forward_tokens_s=forward_rate,
        train_tokens_s=train_rate,
        memory_gib=memory,
        train_gib=peak_gib(),
        parameters=model.num_parameters(),
        trained=model.num_parameters(only_trainable=True),
    )


def _rate(
    step: Callable[[Sequence[int]], None], batches: Sequence[Sequence[int]], tokens: Sequence[int], least: float
) -> float:
    """Unpadded tokens a second over batches spread through the list, for ``least`` seconds after one as a warm-up."""
    step(batches[-1])
    done, started = 0, time.perf_counter()
    for indices in itertools.cycle(_spread(batches)):
        step(indices)
        done += sum(tokens[i] for i in indices)
        if (seconds := time.perf_counter() - started) > least:
            return done / seconds
    raise AssertionError("no batch")


def _spread(batches: Sequence[Sequence[int]]) -> Iterator[Sequence[int]]:
    """The batches in an order whose every beginning is a fair sample of long and short ones."""
    stride = max(1, len(batches) // 8)
    for start in range(stride):
        yield from batches[start::stride]
