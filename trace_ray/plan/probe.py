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
    start, before = time.time() - begun, reader.prompt_tokens
    cold = [i for i in range(len(requests)) if i % WARM_UP]
    seconds = _timed(lambda: reader.opinions([requests[i] for i in cold], [responses[i] for i in cold]))
    rate = (reader.prompt_tokens - before) / seconds
    written = _drafting(reader, requests[:PROMPTS], responses[:PROMPTS]) if name == writer(config) else 0.0
    return EngineRates(start_s=start, memory_gib=peak_gib(), prompt_tokens_s=rate, answer_tokens_s=written)


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


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]))
