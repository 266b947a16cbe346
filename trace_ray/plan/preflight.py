"""What stages that are still to be done would stop at, found before the first of them begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from trace_ray.config import Config, JudgeConfig
from trace_ray.errors import UserError
from trace_ray.plan.judges import reading_judges
from trace_ray.plan.unready import unready, without_weights
from trace_ray.storage.staging import local_model

OF_THE_MODEL = ("impact", "realign", "evaluate")
"""Stages that load the model to realign."""


def preflight(config: Config, stages: Sequence[str]) -> Iterator[UserError]:
    """Yields what can be known of files, judges and model; no weights are read, nothing is started.

    Of each judge, and of the model, the first problem: what comes after is looked up in what comes before.

    Args:
        config: with absolute model paths.
        stages: those that are still to be done.
    """
    yield from unready(config, stages)
    yield from without_weights(config, stages)
    for name, judge in reading_judges(config).items():
        if name.partition(".")[0] in stages and judge.backend == "vllm" and judge.model:
            yield from _first(*_judge_checks(name, judge, config))
    if set(OF_THE_MODEL) & set(stages) and config.model.path:
        yield from _first(*_model_checks(config, stages))


def _first(*checks: Callable[[], object]) -> Iterator[UserError]:
    for check in checks:
        try:
            check()
        except UserError as problem:
            yield problem
            return


def _judge_checks(name: str, judge: JudgeConfig, config: Config) -> Iterator[Callable[[], object]]:
    from trace_ray.plan.reading import Reader

    yield lambda: Reader.of(name, judge, config)
    yield lambda: check_judge_context(name, judge)


def _model_checks(config: Config, stages: Sequence[str]) -> Iterator[Callable[[], object]]:
    from trace_ray.model.loading import load_chat_tokenizer
    from trace_ray.realign.generation import check_generation

    yield lambda: load_chat_tokenizer(config.model)
    yield lambda: check_model_context(config, stages)
    if {"impact", "realign"} & set(stages):
        from trace_ray.impact.preflight import check_model

        yield lambda: check_model(config)
    if "realign" in stages:
        yield lambda: check_generation(config.model)


def check_model_context(config: Config, stages: Sequence[str]) -> None:
    """Raises UserError where prompts, answers and what is generated after a prompt are longer than the model can see."""
    model, evaluate = config.model, config.evaluate
    longest = _context(model.path, model.revision, model.trusted, "model.path")
    if longest is not None and model.max_length > longest:
        raise UserError("model.max_length", model.max_length, f"this model sees {longest} tokens at once: give fewer")
    if "evaluate" not in stages:
        return
    new = evaluate.max_new_tokens
    room = _given_room(evaluate.engine)
    if room is not None and room <= model.max_length:
        remedy = f"prompts have up to model.max_length = {model.max_length} tokens: give more, or leave it out"
        raise UserError("evaluate.engine.max_model_len", room, remedy)
    if longest is None or "hf_overrides" in evaluate.engine:
        return
    if room is not None and room > longest:
        raise UserError("evaluate.engine.max_model_len", room, f"this model sees {longest} tokens at once: give fewer")
    if room is None and model.max_length + new > longest:
        remedy = (
            f"with evaluate.max_new_tokens = {new} after a prompt it is more than the {longest} tokens that this model "
            f"sees at once: give at most {longest - new}, or fewer new tokens"
        )
        raise UserError("model.max_length", model.max_length, remedy)


def check_judge_context(name: str, judge: JudgeConfig) -> None:
    """Raises UserError where a judge's prompts may be longer than it can see, which vLLM refuses at its start."""
    longest = _context(judge.model, judge.revision, judge.trusted, f"{name}.model")
    room = _given_room(judge.engine)
    setting = f"{name}.max_model_len" if room is None else f"{name}.engine.max_model_len"
    asked = judge.max_model_len if room is None else room
    if longest is not None and asked > longest and "hf_overrides" not in judge.engine:
        raise UserError(setting, asked, f"this judge sees {longest} tokens at once: give at most that")


def _given_room(engine: dict[str, Any]) -> int | None:
    return int(engine["max_model_len"]) if "max_model_len" in engine else None


def _context(path: str, revision: str, trusted: bool, setting: str) -> int | None:
    from transformers import AutoConfig

    from trace_ray.model.context import context_length

    folder = local_model(path, weights=False)
    try:
        return context_length(AutoConfig.from_pretrained(folder, revision=revision, trust_remote_code=trusted))
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(setting, path, f"no model configuration there: {said}") from None
