"""What is measured of a cell's model: agreement by the exact oracle on held-out prompts, and drift from the base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from trace_ray.chat.text import accepted
from trace_ray.config import Config
from trace_ray.evaluate.drift import drift
from trace_ray.model.loading import load_chat_tokenizer, load_model
from trace_ray.pairs import Category, Split
from trace_ray.synth.oracle import violates

Row = dict[str, Any]


@torch.inference_mode()
def greedy_answers(model: Any, prompts: Sequence[Sequence[int]], tokenizer: Any, limit: int) -> list[str]:
    """Returns the greedy answer to each prompt (tokens), without special tokens; one batch, padded on the left."""
    longest = max(map(len, prompts))
    pad = tokenizer.pad_token_id
    ids_BT = torch.tensor([[pad] * (longest - len(p)) + list(p) for p in prompts])
    mask_BT = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    out_BT = model.generate(input_ids=ids_BT, attention_mask=mask_BT, max_new_tokens=limit, do_sample=False)
    return list(tokenizer.batch_decode(out_BT[:, longest:], skip_special_tokens=True))


def answered(model: Any, test: Sequence[Row], config: Config) -> tuple[list[str], list[bool]]:
    """Returns the answers to the prompts and whether each complies, by the exact oracle."""
    chat = load_chat_tokenizer(config.model)
    prompts = accepted(chat.prompts([row["prompt"] for row in test]))
    answers = greedy_answers(model, prompts, chat.tokenizer, config.evaluate.max_new_tokens)
    return answers, [not violates(row["prompt"][0]["content"], a) for row, a in zip(test, answers, strict=True)]


def measure_base(triaged: Sequence[Row], config: Config) -> float:
    """Returns the TPA of the model before realignment, in percent."""
    _, right = answered(load_model(config.model), [row for row in triaged if row["split"] == Split.TEST], config)
    return 100 * sum(right) / len(right)


def measure(model: Any, triaged: Sequence[Row], config: Config) -> dict[str, Any]:
    """Returns TPA in percent over all test prompts and by source, examples of failures, and drift on RETAIN test pairs.

    Args:
        model: a PEFT model in evaluation mode.
        triaged: the judged corpus, whose categories decide only which pairs drift is measured on.
    """
    test = [row for row in triaged if row["split"] == Split.TEST]
    answers, right = answered(model, test, config)
    groups: dict[str, list[bool]] = {}
    for row, complies in zip(test, right, strict=True):
        groups.setdefault(row["source"], []).append(complies)
    wrong = [a for a, complies in zip(answers, right, strict=True) if not complies]
    return {
        "tpa": 100 * sum(right) / len(right),
        "tpa_by_source": {name: 100 * sum(values) / len(values) for name, values in groups.items()},
        "wrong_examples": wrong[:3],
        **drifted(model, test, config),
    }


def drifted(model: Any, test: Sequence[Row], config: Config) -> dict[str, float]:
    """Returns the drift of a PEFT model on the RETAIN pairs among the test pairs."""
    chat = load_chat_tokenizer(config.model)
    retain = [row for row in test if row["category"] == Category.RETAIN]
    pairs = accepted(chat.pairs([row["prompt"] for row in retain], [{"chosen": row["chosen"]} for row in retain]))
    return drift(model, None, pairs, config.impact.tokens)
