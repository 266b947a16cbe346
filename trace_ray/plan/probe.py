"""Measures one piece of a run in a process of its own, as a Ray worker would meet it: start, speed, peak memory.

    python -m trace_ray.plan.probe policy|train|scoring|JUDGE CONFIG.yaml SAMPLE.parquet STARTED

JUDGE is a judge's setting, such as triage.first_judge. STARTED is the time at which the process was started. Prints one
JSON object as its last line.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pyarrow.parquet as pq

from trace_ray.config import Config
from trace_ray.config.load import load_config
from trace_ray.pairs import prompt_text
from trace_ray.plan.judges import used_judges, writer
from trace_ray.plan.probe_scoring import measure_scoring
from trace_ray.plan.probe_training import measure_training
from trace_ray.plan.rates import EngineRates, peak_gib

PROMPTS = 24
WARM_UP = 6
"""Every sixth prompt goes first: an engine's first batch costs seconds more, once."""
ANSWER_TOKENS = 128
FEW_TOKENS = 8
"""Written by each of the prompts to see how long whole answers would take."""
PATIENCE_S = 6.0
"""For more answers or verdicts than the first few."""


def main(piece: str, config_file: str, sample_file: str, begun: float) -> None:
    """Measures and prints."""
    config = load_config([config_file])
    rows = pq.read_table(sample_file).to_pylist()
    match piece:
        case "policy":
            rates: Any = _policy(config, rows, begun)
        case "train":
            rates = measure_training(config, rows, begun)
        case "scoring":
            rates = measure_scoring(config, rows)
        case _:
            rates = _judge(config, piece, rows, begun)
    sys.stdout.write("\n" + json.dumps(asdict(rates)) + "\n")


def _judge(config: Config, name: str, rows: list[dict[str, Any]], begun: float) -> EngineRates:
    from trace_ray.judges.vllm_judge import VllmJudge

    drafted = min(config.triage.corrector_tokens, ANSWER_TOKENS)
    reader = VllmJudge(config.policy, used_judges(config)[name], drafted, name)
    requests = [prompt_text(row["prompt"]) for row in rows] * 2
    responses = [row[name] for name in ("chosen", "rejected") for row in rows]
    reader.opinions(requests[::WARM_UP], responses[::WARM_UP])
    start = time.time() - begun
    cold = [i for i in range(len(requests)) if i % WARM_UP]
    first, rest = cold[: len(cold) // 4], cold[len(cold) // 4 :]
    before, seconds = reader.prompt_tokens, _judging(reader, requests, responses, first)
    if seconds * len(rest) / len(first) < PATIENCE_S:
        seconds += _judging(reader, requests, responses, rest)
    rate = (reader.prompt_tokens - before) / seconds
    written = _drafting(reader, requests[:PROMPTS], responses[:PROMPTS]) if name == writer(config) else 0.0
    return EngineRates(start_s=start, memory_gib=peak_gib(), prompt_tokens_s=rate, answer_tokens_s=written)


def _judging(reader: Any, requests: list[str], responses: list[str], which: list[int]) -> float:
    return _timed(lambda: reader.opinions([requests[i] for i in which], [responses[i] for i in which]))


def _drafting(reader: Any, requests: list[str], responses: list[str]) -> float:
    """Tokens a second of corrections, their prompts' reading included; one that is none was cut at the limit, most likely."""
    drafts: list[str | None] = []
    seconds = _timed(lambda: drafts.extend(draft.text for draft in reader.drafts(requests, responses)))
    whole = [draft for draft in drafts if draft is not None]
    lengths = [len(ids) for ids in reader.engine.tokenizer(whole)["input_ids"]] if whole else []
    cut = len(drafts) - len(whole)
    return max(1, sum(lengths) + int(reader.correction_tokens) * cut) / seconds


def _policy(config: Config, rows: list[dict[str, Any]], begun: float) -> EngineRates:
    from trace_ray.chat.text import ChatTokenizer, accepted
    from trace_ray.model.engine import Engine, EngineSettings

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
    chat = ChatTokenizer(engine.tokenizer, model.max_length, model)
    prompts = accepted(chat.prompts([row["prompt"] for row in rows[:PROMPTS]]))
    engine.generate(prompts[:1], 2)
    start = time.time() - begun
    speed, length = _answering(engine, prompts, limit, evaluate.max_new_tokens)
    return EngineRates(
        start_s=start,
        memory_gib=peak_gib(),
        prompt_tokens_s=0.0,
        answer_tokens_s=speed,
        answer_tokens=length,
    )


def _answering(engine: Any, prompts: list[list[int]], limit: int, longest: int) -> tuple[float, float]:
    """Returns (new tokens a second, mean length of an answer); without waiting for whole ones where these take long: 0.

    Args:
        limit: of the answers that are waited for; longest: of a run's.
    """
    read = _timed(lambda: engine.generate(prompts, 1))
    begun = min(FEW_TOKENS, limit)
    step = _timed(lambda: engine.generate(prompts, begun)) / begun  # the prompts are in the prefix cache by now
    if step * limit > PATIENCE_S:
        return len(prompts) * limit / (read + step * limit), 0.0
    answers: list[str] = []
    written = _timed(lambda: answers.extend(engine.generate(prompts, limit)))
    lengths = [len(ids) for ids in engine.tokenizer(answers)["input_ids"]]
    # An answer that was cut at this limit would go on to the run's own.
    full = [longest if n >= limit - 1 else n for n in lengths]
    return sum(lengths) / (read + written), sum(full) / len(full)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]))
