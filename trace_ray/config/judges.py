"""Settings of whoever judges: an engine, an endpoint, or rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trace_ray.config.fields import (
    ENGINE,
    LABELS,
    LATER,
    choice,
    later_choice,
    open_choice,
    resource,
    resource_auto,
)


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """An OpenAI-compatible chat endpoint that gives log-probs.

    ``max_requests`` and ``max_tokens`` bound what a triage asks of this judge, its resumes and corrections included. Each
    actor may use an equal share of what is left (over the ``max_actors`` of its pool) and stops the run where that is spent.
    What a process that was killed had asked since its last finished block is not counted, and its successor has a share
    of its own. Elsewhere, in ``evaluate`` and in a panel, nothing is shared: each process of the judge may use it all.

    Args:
        base_url: up to and including its version, such as http://host:8000/v1. Like the key, it may change in mid-run: what
            answers there is known by the judge's ``model``.
        api_key_env: the environment variable that holds the key; the key itself is in no file. Empty = no key.
        top_logprobs: alternatives of the first token asked for; most endpoints allow 20.
        concurrency: requests in flight from one actor.
        reasons: it serves models that take neither temperature nor log-probs and count what they think among the answer's
            tokens (max_completion_tokens): they can be judges by ``mode: vote`` or ``reason``.
        requests_per_minute, tokens_per_minute: what one actor asks at most, tokens of prompts and answers together as they
            become known; 0 = as fast as ``concurrency`` goes.
        timeout_s: seconds one request may take.
        max_retries: further tries after a 429, a 5xx, a time-out or a broken connection.
        backoff_s: wait before the first of them; it doubles each time, with jitter, up to a minute, unless Retry-After says
            more, which is kept to.
        batch_from: requests from which a call is sent as a batch file, which costs less and takes up to a day (mind
            ``ray.stall_minutes``); a call has those of ``batch_rows`` responses. Fewer are asked one by one: canaries, and what
            is judged first. A batch is found again after a kill. 0 = never.
        batch_poll_s: between two looks at whether it has ended.
        prompt_price, answer_price: of a million tokens that it reads and of as many that it writes, any currency; then
            ``plan``, the line of progress and the report tell what it costs. 0 = not known.
        max_requests: requests, retries included; 0 = no limit.
        max_tokens: tokens of prompts and answers; known with the answer, so up to ``concurrency`` answers more. 0 = no limit.
    """

    base_url: str = resource("")
    api_key_env: str = resource("OPENAI_API_KEY")
    top_logprobs: int = 20
    reasons: bool = field(default=False, metadata=LATER)
    concurrency: int = resource(32)
    requests_per_minute: int = resource(0)
    tokens_per_minute: int = resource(0)
    timeout_s: float = resource(60.0)
    max_retries: int = resource(6)
    backoff_s: float = resource(0.5)
    batch_from: int = resource(0)
    batch_poll_s: float = resource(30.0)
    prompt_price: float = resource(0.0)
    answer_price: float = resource(0.0)
    max_requests: int = resource(0)
    max_tokens: int = resource(0)


@dataclass(frozen=True, kw_only=True)
class ExampleConfig:
    """A response that was judged, shown to a judge before it is asked."""

    request: str = ""
    response: str = ""
    violates: bool = False


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """What a judge reads around the judged text. Whatever of it is empty is as ``judges/prompt.py`` has it.

    Args:
        form: ``question`` = an instruct model is asked; else the guard model whose own template holds the dialogue and whose
            own answer words count: ``judges/guards.py``.
        template: the user's turn, or a file of it, with {policy}, {judged} and {question} once each; {examples} stands for
            ``examples``.
        system: a turn before it; empty = none.
        question: whether the response violates; it asks for one of the answer words.
        opposite: whether it complies.
        polarity: which of both is asked; ``both`` = the mean of what they say, so that a judge that likes to say Yes is
            cured of it. How much it likes that is a figure of the audit.
        violates, complies: answer words to ``question``; to ``opposite`` they mean the contrary.
        examples: judged responses, shown in this order.
    """

    form: str = choice("question", "llama_guard", "shieldgemma", "qwen3guard")
    template: str = ""
    system: str = ""
    question: str = ""
    opposite: str = ""
    polarity: str = choice("violates", "complies", "both")
    violates: tuple[str, ...] = ()
    complies: tuple[str, ...] = ()
    examples: list[ExampleConfig] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Who says whether a response violates the policy.

    Args:
        backend: ``vllm`` reads, ``openai`` asks an endpoint, ``rules`` computes the clauses' rules exactly, ``distilled`` is a
            classifier that learns from ``triage.judge`` (``triage.first_judge`` alone can be it);
            else another package's (``config/plugins.py``): a name of its own, or package.module:Class.
        model: hub id or folder of the judge (vllm), or the endpoint's name for it (openai).
        trust_remote_code: ``model`` once more = run the Python code that it brings (vllm); ``""`` = refuse such models.
        chat_template, chat_template_kwargs, chat_template_date: as those of ``model``. An endpoint renders by itself: it is
            sent ``chat_template_kwargs`` alone.
        verdict_by: ``question`` = it is asked whether the response violates the policy; ``clauses`` = whether it breaks each
            clause, and P(violates) is the largest of these: nothing violates without a clause that says why.
        prompt: what it reads around the judged text; its tokens are part of what stored verdicts are kept by.
        mode: ``verdict`` = P(violates) is read from the log-probs of the first answer token; ``vote`` = it is the share of
            ``samples`` answers that say so, for endpoints without log-probs; ``reason`` = the same of answers that give
            their reasons first, which are kept: a rationale a verdict.
        samples, temperature, seed: of ``vote`` and ``reason``.
        reason_tokens: length of one answer with reasons, thoughts included.
        min_mass: least probability on the Yes and No tokens together, or share of readable samples, for a verdict to count
            as readable.
        actors: judge actors kept at least; ``max_actors`` at most.
        label_selector: labels of the nodes that actors may run on, such as {trace-ray/pool: judge}; values also as !value,
            in(one,two), !in(one,two).
        kv_cache_gib: memory of the engine's key-value cache on CPU.
        engine: further arguments of the vLLM engine; those of ``config_fields.SPEED_KEYS`` change no result.
        batch_rows: responses judged in one call, and lost at most by a killed actor.
        endpoint: openai only.
    """

    backend: str = open_choice("judges", "vllm", "openai", "rules", "distilled")
    model: str = ""
    revision: str = "main"
    trust_remote_code: str = ""
    dtype: str = choice("auto", "float32", "bfloat16")
    chat_template: str = ""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    chat_template_date: str = ""
    verdict_by: str = later_choice("question", "clauses")
    prompt: PromptConfig = field(default_factory=PromptConfig, metadata=LATER)
    mode: str = later_choice("verdict", "vote", "reason")
    samples: int = field(default=5, metadata=LATER)
    temperature: float = field(default=0.7, metadata=LATER)
    seed: int = field(default=0, metadata=LATER)
    reason_tokens: int = field(default=1024, metadata=LATER)
    min_mass: float = 0.5
    max_model_len: int = 2048
    actors: int = resource(1)
    max_actors: int = resource(1)
    batch_rows: int = resource(256)
    num_cpus: float = resource(1.0)
    num_gpus: int | float | str = resource_auto()
    label_selector: dict[str, str] = field(default_factory=dict, metadata=LABELS)
    kv_cache_gib: float = resource(1.0)
    engine: dict[str, Any] = field(default_factory=dict, metadata=ENGINE)
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)

    @property
    def gpus(self) -> float:
        """``num_gpus`` as a number; ``auto`` that nobody has resolved (``config.gpus``) is none."""
        return 0.0 if isinstance(self.num_gpus, str) else float(self.num_gpus)

    @property
    def trusted(self) -> bool:
        """Whether code that the model brings may run: asked for by this model's name."""
        return bool(self.model) and self.trust_remote_code == self.model


WITHOUT_MODEL = ("rules", "distilled")
"""Backends that read with no model of their own."""


def judge_name(judge: JudgeConfig) -> str:
    """Returns what a judge is called in results: its model, or ``rules``, which read none even where one is named."""
    return judge.backend if judge.backend in WITHOUT_MODEL else judge.model or judge.backend
