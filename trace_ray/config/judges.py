"""Settings of whoever judges: an engine, an endpoint, or rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trace_ray.config.fields import ENGINE, LABELS, choice, open_choice, resource


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """An OpenAI-compatible chat endpoint that gives log-probs.

    ``max_requests`` and ``max_tokens`` bound what a triage asks of this judge, its resumes and corrections included. Each
    actor may use an equal share of what is left (over ``triage.judge.max_actors``) and stops the run where that is spent.
    What a process that was killed had asked since its last finished block is not counted, and its successor has a share
    of its own. Elsewhere, in ``evaluate`` and in a panel, nothing is shared: each process of the judge may use it all.

    Args:
        base_url: up to and including its version, such as http://host:8000/v1. Like the key, it may change in mid-run: what
            answers there is known by the judge's ``model``.
        api_key_env: the environment variable that holds the key; the key itself is in no file. Empty = no key.
        top_logprobs: alternatives of the first token asked for; most endpoints allow 20.
        concurrency: requests in flight from one actor.
        timeout_s: seconds one request may take.
        max_retries: further tries after a 429, a 5xx, a time-out or a broken connection.
        backoff_s: wait before the first of them; it doubles each time, with jitter, unless Retry-After says more.
        max_requests: requests, retries included; 0 = no limit.
        max_tokens: tokens of prompts and answers; known with the answer, so up to ``concurrency`` answers more. 0 = no limit.
    """

    base_url: str = resource("")
    api_key_env: str = resource("OPENAI_API_KEY")
    top_logprobs: int = 20
    concurrency: int = resource(32)
    timeout_s: float = resource(60.0)
    max_retries: int = resource(6)
    backoff_s: float = resource(0.5)
    max_requests: int = resource(0)
    max_tokens: int = resource(0)


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Who says whether a response violates the policy.

    Args:
        backend: ``vllm`` reads, ``openai`` asks an endpoint, ``rules`` computes the clauses' rules exactly;
            else another package's (``config/plugins.py``): a name of its own, or package.module:Class.
        model: hub id or folder of the judge (vllm), or the endpoint's name for it (openai).
        trust_remote_code: ``model`` once more = run the Python code that it brings (vllm); ``""`` = refuse such models.
        chat_template, chat_template_kwargs, chat_template_date: as those of ``model``. An endpoint renders by itself: it is
            sent ``chat_template_kwargs`` alone.
        min_mass: least probability on the Yes and No tokens together for a verdict to count as readable.
        actors: judge actors kept at least; ``max_actors`` at most.
        label_selector: labels of the nodes that actors may run on, such as {trace-ray/pool: judge}; values also as !value,
            in(one,two), !in(one,two).
        kv_cache_gib: memory of the engine's key-value cache on CPU.
        engine: further arguments of the vLLM engine; those of ``config_fields.SPEED_KEYS`` change no result.
        batch_rows: responses judged in one call, and lost at most by a killed actor.
        endpoint: openai only.
    """

    backend: str = open_choice("judges", "vllm", "openai", "rules")
    model: str = ""
    revision: str = "main"
    trust_remote_code: str = ""
    dtype: str = choice("auto", "float32", "bfloat16")
    chat_template: str = ""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    chat_template_date: str = ""
    min_mass: float = 0.5
    max_model_len: int = 2048
    actors: int = resource(1)
    max_actors: int = resource(1)
    batch_rows: int = resource(256)
    num_cpus: float = resource(1.0)
    num_gpus: float = resource(0.0)
    label_selector: dict[str, str] = field(default_factory=dict, metadata=LABELS)
    kv_cache_gib: float = resource(1.0)
    engine: dict[str, Any] = field(default_factory=dict, metadata=ENGINE)
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)

    @property
    def trusted(self) -> bool:
        """Whether code that the model brings may run: asked for by this model's name."""
        return bool(self.model) and self.trust_remote_code == self.model


def judge_name(judge: JudgeConfig) -> str:
    """Returns what a judge is called in results: its model, or ``rules``, which read none even where one is named."""
    return "rules" if judge.backend == "rules" else judge.model or judge.backend
