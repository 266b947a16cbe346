"""Measures one piece of a run in a process of its own, as a Ray worker would meet it: start, speed, peak memory.

    python -m trace_ray.plan.probe policy|train|JUDGE CONFIG.yaml SAMPLE.parquet STARTED

JUDGE is a judge's setting, such as triage.first_judge. STARTED is the time at which the process was started. Prints one
JSON object as its last line.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from trace_ray.batching import token_batches
from trace_ray.config import Config, RealignConfig
from trace_ray.config_load import load_config
from trace_ray.pairs import prompt_text
from trace_ray.plan.judges import used_judges, writer
from trace_ray.plan.rates import EngineRates, TrainRates

PROMPTS = 24
WARM_UP = 6
"""Every sixth prompt goes first: an engine's first batch costs seconds more, once."""
ANSWER_TOKENS = 128
SECONDS = 6.0
"""At least this long is measured."""


def main(piece: str, config_file: str, sample_file: str, begun: float) -> None:
    """Measures and prints."""
    config = load_config([config_file])
    rows = pq.read_table(sample_file).to_pylist()
    match piece:
        case "policy":
            rates: Any = _policy(config, rows, begun)
        case "train":
            rates = _train(config, rows, begun)
        case _:
            rates = _judge(config, piece, rows, begun)
    sys.stdout.write("\n" + json.dumps(asdict(rates)) + "\n")


def _judge(config: Config, name: str, rows: list[dict[str, Any]], begun: float) -> EngineRates:
    from trace_ray.judges.vllm_judge import VllmJudge

    drafted = min(config.triage.corrector_tokens, ANSWER_TOKENS)
    reader = VllmJudge(config.policy, used_judges(config)[name], drafted)
    requests = [prompt_text(row["prompt"]) for row in rows] * 2
    responses = [row[name] for name in ("chosen", "rejected") for row in rows]
    reader.opinions(requests[::WARM_UP], responses[::WARM_UP])
    start, before = time.time() - begun, reader.prompt_tokens
    cold = [i for i in range(len(requests)) if i % WARM_UP]
    seconds = _timed(lambda: reader.opinions([requests[i] for i in cold], [responses[i] for i in cold]))
    rate = (reader.prompt_tokens - before) / seconds
    written = _drafting(reader, requests[:PROMPTS], responses[:PROMPTS]) if name == writer(config) else 0.0
    return EngineRates(start_s=start, memory_gib=peak_gib(), prompt_tokens_s=rate, answer_tokens_s=written)


def _drafting(reader: Any, requests: list[str], responses: list[str]) -> float:
    """Tokens a second of corrections, their prompts' reading included; one that is none was cut at the limit, most likely."""
    drafts: list[str | None] = []
    seconds = _timed(lambda: drafts.extend(reader.drafts(requests, responses)))
    whole = [draft for draft in drafts if draft is not None]
    lengths = [len(ids) for ids in reader.engine.tokenizer(whole)["input_ids"]] if whole else []
    cut = len(drafts) - len(whole)
    return max(1, sum(lengths) + int(reader.correction_tokens) * cut) / seconds


def _policy(config: Config, rows: list[dict[str, Any]], begun: float) -> EngineRates:
    from trace_ray.inference import Engine, EngineSettings
    from trace_ray.text import ChatTokenizer

    evaluate, model = config.evaluate, config.model
    limit = min(evaluate.max_new_tokens, ANSWER_TOKENS)
    engine = Engine(
        EngineSettings(
            model=model.path,
            revision=model.revision,
            trusted=model.trusted,
            dtype=model.dtype,
            max_model_len=model.max_length + evaluate.max_new_tokens,
            kv_cache_gib=evaluate.kv_cache_gib,
            num_cpus=evaluate.num_cpus,
            extra=tuple(evaluate.engine.items()),
        )
    )
    prompts = ChatTokenizer(engine.tokenizer, model.max_length).prompts([row["prompt"] for row in rows[:PROMPTS]])
    engine.generate(prompts[:1], 2)
    start = time.time() - begun
    answers: list[str] = []
    seconds = _timed(lambda: answers.extend(engine.generate(prompts, limit)))
    lengths = [len(ids) for ids in engine.tokenizer(answers)["input_ids"]]
    # An answer that was cut at this limit would go on to the run's own.
    full = [evaluate.max_new_tokens if n >= limit - 1 else n for n in lengths]
    return EngineRates(
        start_s=start,
        memory_gib=peak_gib(),
        prompt_tokens_s=0.0,
        answer_tokens_s=sum(lengths) / seconds,
        answer_tokens=sum(full) / len(full),
    )


def _train(config: Config, rows: list[dict[str, Any]], begun: float) -> TrainRates:
    import torch

    from trace_ray.log_probs import response_log_probs
    from trace_ray.models import load_chat_tokenizer, load_model, new_adapter

    model = load_model(config.model)
    full = config.realign.tune == "full"
    model = model.requires_grad_(True) if full else new_adapter(model, config.lora, config.impact.seed)
    start = time.time() - begun
    pairs = load_chat_tokenizer(config.model).pairs(
        [row["prompt"] for row in rows], [{"y": row["chosen"]} for row in rows]
    )
    sequences = [(pair.prompt_ids, pair.response_ids["y"]) for pair in pairs]
    lengths = [len(prompt) + len(response) for prompt, response in sequences]

    def forward(indices: list[int]) -> None:
        with torch.inference_mode():
            response_log_probs(model, _batch(sequences, indices))

    def train(indices: list[int]) -> None:
        loss: Any = response_log_probs(model, _batch(sequences, indices)).sum()
        loss.backward()

    torch.set_num_threads(max(1, int(config.impact.num_cpus)))
    forward_rate = _rate(forward, token_batches(lengths, config.impact.batch_tokens), lengths)
    memory = peak_gib()
    torch.set_num_threads(max(1, int(config.realign.num_cpus)))
    if config.realign.gradient_checkpointing:
        model.train().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    train_rate = _rate(train, micro_batches(lengths, config.realign), lengths)
    return TrainRates(
        start_s=start,
        forward_tokens_s=forward_rate,
        train_tokens_s=train_rate,
        memory_gib=memory,
        train_gib=peak_gib(),
        parameters=model.num_parameters(),
        trained=model.num_parameters(only_trainable=True),
    )


def micro_batches(lengths: list[int], realign: RealignConfig) -> list[list[int]]:
    """Returns the sequences as training runs them at once: within its tokens, and no more than a worker has of a step."""
    size = -(-realign.batch // realign.workers)
    batches = token_batches(lengths, realign.micro_tokens)
    return [batch[at : at + size] for batch in batches for at in range(0, len(batch), size)]


def _batch(sequences: list[tuple[list[int], list[int]]], indices: list[int]) -> Any:
    from trace_ray.log_probs import collate

    return collate([sequences[i][0] for i in indices], [sequences[i][1] for i in indices])


def _rate(step: Callable[[list[int]], None], batches: list[list[int]], lengths: list[int]) -> float:
    """Unpadded tokens a second over batches spread through the list, the first one as a warm-up."""
    step(batches[-1])
    done, started = 0, time.perf_counter()
    for indices in itertools.cycle(_spread(batches)):
        step(indices)
        done += sum(lengths[i] for i in indices)
        if (seconds := time.perf_counter() - started) > SECONDS:
            return done / seconds
    raise AssertionError("no batch")


def _spread(batches: list[list[int]]) -> Iterator[list[int]]:
    """The batches in an order whose every beginning is a fair sample of long and short ones."""
    stride = max(1, len(batches) // 8)
    for start in range(stride):
        yield from batches[start::stride]


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peak_gib() -> float:
    """Returns the most memory this process has held so far. Source: VmHWM of proc(5)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]))
