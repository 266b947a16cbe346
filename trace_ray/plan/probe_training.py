"""Measures forwards and training steps of the policy model in one process."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from trace_ray.config import Config
from trace_ray.model.batches import token_batches
from trace_ray.plan.rates import TrainRates, peak_gib
from trace_ray.realign.layout import plan_step

if TYPE_CHECKING:
    from trace_ray.model.packing import Packed

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
    from trace_ray.model.modes import checkpoint_layers, training_mode
    from trace_ray.model.packing import Packed, pack
    from trace_ray.model.sharing import sharing_rule

    impact, realign = config.impact, config.realign
    model = load_model(config.model)
    full = realign.tune == "full"
    model = model.requires_grad_(True) if full else new_adapter(model, config.lora, impact.seed)
    start = time.time() - begun
    pairs = load_chat_tokenizer(config.model).pairs(
        [row["prompt"] for row in rows], [{side: row[side] for side in SIDES} for row in rows]
    )
    apart = [[Packed(pair.prompt_ids, (pair.response_ids[side],)) for side in SIDES] for pair in accepted(pairs)]
    sequences = [row for rows in apart for row in rows]
    lengths = [len(row) for row in sequences]
    pays = sharing_rule(model)

    def joined(rows: Sequence[Packed]) -> Packed:
        return Packed(rows[0].prompt_ids, tuple(ids for row in rows for ids in row.response_ids))

    trained = [[joined(rows)] if pays(*_sizes(rows)) else rows for rows in apart]

    def forward(indices: Sequence[int]) -> None:
        with torch.inference_mode():
            response_log_probs(model, pack([sequences[i] for i in indices]))

    def train(samples: Sequence[int]) -> None:
        mine = [trained[i] for i in samples]
        tokens = [[len(row) for row in rows] for rows in mine]
        anchored, shared = [[False] * len(rows) for rows in mine], [len(rows) == 1 for rows in mine]
        layout = {"workers": 1, "budget": realign.micro_tokens, "overhead": realign.forward_overhead}
        for micro_step in plan_step(tokens, anchored, shared, **layout):
            flat = [row for i in micro_step.samples[0] for row in mine[i]]
            batches = [pack([flat[s] for s in group]) for group in micro_step.groups[0]]
            loss: Any = sum(response_log_probs(model, batch).sum() for batch in batches)
            loss.backward()

    torch.set_num_threads(max(1, int(impact.num_cpus)))
    forward_rate = _rate(forward, token_batches(lengths, impact.batch_tokens), lengths, SECONDS["forward"])
    memory = peak_gib()
    torch.set_num_threads(max(1, int(realign.num_cpus)))
    if realign.gradient_checkpointing:
        checkpoint_layers(model)
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


def _sizes(rows: Sequence[Packed]) -> tuple[int, list[int]]:
    """Tokens of the prompt, and of each response."""
    return len(rows[0].prompt_ids), [len(ids) for row in rows for ids in row.response_ids]


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
