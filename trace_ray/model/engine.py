"""The vLLM engine: greedy generation and the first answer token's log-probs. Built inside a Ray Data actor, one a process."""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from trace_ray.config.engine import refuse_code
from trace_ray.config.gpus import MEMORY, WHOLE_CARD
from trace_ray.model.card import wait_for_memory
from trace_ray.model.engine_process import has_gpu, prepare_process
from trace_ray.model.engine_start import EngineNames, start_fault
from trace_ray.model.loading import load_tokenizer
from trace_ray.storage.staging import local_model, plain_path


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What an engine needs to start; ``extra`` goes to vLLM as it is, ``trusted`` lets the model's own code run.

    ``names``: the settings that these come from, for what is said of a mistake in them. ``gpus``: those of its process, 0 =
    none, so that it takes none; None = what there is. ``draws``: by seeds; on a CPU vLLM fails
    at that where it reads a prompt in pieces (its generator has no offset there), so that it is told to read each whole.
    """

    model: str
    revision: str = "main"
    trusted: bool = False
    dtype: str = "auto"
    max_model_len: int = 2048
    kv_cache_gib: float = 1.0
    num_cpus: float = 1.0
    extra: tuple[tuple[str, Any], ...] = ()
    names: EngineNames = field(default_factory=EngineNames)
    gpus: float | None = None
    draws: bool = False


class Adapter(NamedTuple):
    """A LoRA adapter in a local folder; one number and one folder belong together for an engine's life, from 1."""

    number: int
    folder: str


LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM makes room for."""


def with_adapters(rank: int) -> dict[str, Any]:
    """Returns the arguments of an engine that answers with one adapter of this rank at a time, or with none.

    >>> with_adapters(24)["max_lora_rank"]
    32
    """
    room = next((known for known in LORA_RANKS if known >= rank), rank)
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": room}


_BREAKS = (RuntimeError, MemoryError, OSError, EOFError)
"""What vLLM raises when it breaks: also a worker of a tensor-parallel engine that answers too late, or is gone."""


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn: so many a prompt, each held to a JSON schema where one is given."""

    number: int
    temperature: float
    seed: int
    max_tokens: int
    schema: dict[str, Any] | None = None
    top_p: float = 1.0


@dataclass(frozen=True)
class Drawn:
    """One drawn answer, without special tokens; ``ended`` False where ``max_tokens`` cut it."""

    text: str
    tokens: list[int]
    ended: bool


class EngineFailedError(RuntimeError):
    """The engine broke while it answered: it is of no further use, its process had better end."""


class Engine:
    """vLLM in this process (its synchronous class), with prefix caching."""

    def __init__(self, settings: EngineSettings) -> None:
        refuse_code("engine", dict(settings.extra))
        prepare_process(
            gpus=settings.gpus,
            kv_cache_gib=settings.kv_cache_gib,
            num_cpus=settings.num_cpus,
            engine=dict(settings.extra),
        )
        from vllm import LLM

        arguments: dict[str, Any] = {
            "dtype": "float32" if settings.dtype == "auto" and not has_gpu() else settings.dtype,
            "max_model_len": settings.max_model_len,
            "enforce_eager": not has_gpu(),
            "enable_prefix_caching": True,
            "trust_remote_code": settings.trusted,
            "load_format": "safetensors",
            "seed": 0,
            "max_logprobs": 64,
            "disable_log_stats": False,
            # Blanks between JSON's fields are free by default, and a small model writes them until its tokens are gone.
            "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
            **({"enable_chunked_prefill": False} if settings.draws and not has_gpu() else {}),
        } | dict(settings.extra)
        self.max_model_len = int(arguments["max_model_len"])
        if has_gpu():
            wait_for_memory(float(arguments.get(MEMORY, WHOLE_CARD)))
        try:
            self.llm: Any = LLM(model=plain_path(local_model(settings.model)), revision=settings.revision, **arguments)
        except Exception as error:
            fault = start_fault(error, settings.names, settings.model, self.max_model_len)
            if fault is None:
                raise
            raise fault from None
        self.tokens = 0
        """Prompt and answer tokens since the start."""
        self.busy_s = self.waited_s = 0.0
        """Seconds in which it computed answers, and between them; what lies before the first question counts nothing."""
        self._ended: float | None = None
        self.tokenizer = _readable(self.llm.get_tokenizer(), settings)

    def close(self) -> None:
        """Lets go of the model, its cache and what vLLM started, so that another may take their place on the card."""
        llm, self.llm = getattr(self, "llm", None), None
        if llm is None:
            return
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
        if has_gpu():
            import torch

            torch.cuda.empty_cache()

    def __del__(self) -> None:
        """An actor's last: Ray frees its GPU for the next as soon as the actor says that it ends."""
        if not sys.is_finalizing():
            self.close()

    def generate(self, prompts: Sequence[list[int]], max_new_tokens: int, adapter: Adapter | None = None) -> list[str]:
        """Returns the greedy answer to each prompt (in tokens), without special tokens.

        Args:
            adapter: to answer with, of an engine made ``with_adapters``; None = the model alone.
        """
        return [str(answer.text) for answer in self._greedy(prompts, max_new_tokens, adapter)]

    def whole_answers(self, prompts: Sequence[list[int]], max_new_tokens: int) -> list[str | None]:
        """As ``generate``; None for an answer that had not ended by then."""
        answers = self._greedy(prompts, max_new_tokens)
        return [None if answer.finish_reason == "length" else str(answer.text) for answer in answers]

    def _greedy(self, prompts: Sequence[list[int]], max_new_tokens: int, adapter: Adapter | None = None) -> list[Any]:
        from vllm import SamplingParams

        answers = self._answers(prompts, SamplingParams(temperature=0.0, max_tokens=max_new_tokens), adapter)
        return [answer.outputs[0] for answer in answers]

    def sampled(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[list[Drawn]]:
        """Returns ``sampling.number`` answers to each prompt: by their seed the same in whatever batch they are drawn."""
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        schema = sampling.schema
        asked = SamplingParams(
            n=sampling.number,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            max_tokens=sampling.max_tokens,
            structured_outputs=schema and StructuredOutputsParams(json=schema),
        )
        return [[_drawn(output) for output in answer.outputs] for answer in self._answers(prompts, asked)]

    def yes_no(self, prompts: Sequence[list[int]], yes_ids: list[int], no_ids: list[int]) -> list[tuple[float, float]]:
        """Returns the probability, in [0, 1], of each prompt's first answer token being a Yes, and of its being a No."""
        answers = self.first_token_log_probs(prompts, [*yes_ids, *no_ids])
        return [(token_mass(seen, yes_ids), token_mass(seen, no_ids)) for seen in answers]

    def first_token_log_probs(self, prompts: Sequence[list[int]], token_ids: Sequence[int]) -> list[dict[int, float]]:
        """Returns for each prompt {token id: log-prob in nats} of the first answer token being one of ``token_ids``."""
        from vllm import SamplingParams

        sampling = SamplingParams(temperature=0.0, max_tokens=1, logprob_token_ids=list(token_ids), detokenize=False)
        answers = self._answers(prompts, sampling)
        return [
            {i: float(seen[i].logprob) for i in token_ids if i in seen}
            for seen in (answer.outputs[0].logprobs[0] for answer in answers)
        ]

    def _answers(self, prompts: Sequence[list[int]], sampling: Any, adapter: Adapter | None = None) -> list[Any]:
        asked = [{"prompt_token_ids": ids} for ids in prompts]
        started = time.perf_counter()
        self.waited_s += 0.0 if self._ended is None else started - self._ended
        try:
            answers = list(self.llm.generate(asked, sampling, use_tqdm=False, lora_request=_lora(adapter)))
        except _BREAKS as error:
            raise EngineFailedError(f"vLLM failed: {' '.join(str(error).split())[:300]}") from error
        self._ended = time.perf_counter()
        self.busy_s += self._ended - started
        self.tokens += sum(map(len, prompts)) + sum(len(o.token_ids) for answer in answers for o in answer.outputs)
        return answers

    def prefix_cache_counts(self) -> tuple[int, int]:
        """Returns (tokens looked up, tokens found) in the prefix cache since the start."""
        values = {m.name: getattr(m, "value", 0) for m in self.llm.get_metrics()}
        return int(values.get("vllm:prefix_cache_queries", 0)), int(values.get("vllm:prefix_cache_hits", 0))


def _drawn(output: Any) -> Drawn:
    return Drawn(str(output.text), list(output.token_ids), output.finish_reason != "length")


def _lora(adapter: Adapter | None) -> Any:
    """What vLLM calls an adapter."""
    if adapter is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest(f"adapter-{adapter.number}", adapter.number, adapter.folder)


def _readable(tokenizer: Any, settings: EngineSettings) -> Any:
    """Returns a tokenizer of transformers: vLLM takes Mistral's own where a tekken.json is, which cannot do what we ask."""
    from transformers import PreTrainedTokenizerBase

    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return tokenizer
    return load_tokenizer(settings.model, settings.revision, settings.trusted, settings.names.model)


def token_mass(log_probs: Mapping[int, float], ids: Sequence[int]) -> float:
    """Returns the probability of ``ids`` together, from {token id: log-prob in nats}; what is not there counts nothing."""
    return sum(math.exp(log_probs[i]) for i in ids if i in log_probs)
