"""Why an engine did not start: a user's mistake, named by its setting, or what another try may not meet."""

from __future__ import annotations

from dataclasses import dataclass

from trace_ray.errors import EngineStartError, UserError
from trace_ray.runtime.passing import chain, passing

_PASSING = ("free memory on device", "out of memory", "changed or cut short while it was copied")
"""What vLLM, torch and our own copying say where another process, or another moment, is to blame."""
_NO_GPU = ("no cuda gpus are available", "failed to infer device type", "found no nvidia driver")
_TOO_LONG = ("max_model_len", "max seq len", "no available memory for the cache blocks")


@dataclass(frozen=True, kw_only=True)
class EngineNames:
    """The settings that an engine is made of, as the user calls them."""

    model: str = "model.path"
    length: str = "model.max_length"
    memory: str = "evaluate.kv_cache_gib"
    gpus: str = "evaluate.num_gpus"

    @classmethod
    def of_judge(cls, where: str) -> EngineNames:
        """Returns the names of a judge in the setting ``where``, such as triage.second_judge."""
        return cls(
            model=f"{where}.model",
            length=f"{where}.max_model_len",
            memory=f"{where}.kv_cache_gib",
            gpus=f"{where}.num_gpus",
        )


def start_fault(error: Exception, names: EngineNames, model: str, length: int) -> UserError | None:
    """Returns what is said of an engine that did not start: an EngineStartError for what may pass, else the mistake.

    Args:
        model, length: the values of ``names.model`` and ``names.length``.
    Returns: None for what is neither: a fault of ours or of vLLM's.
    """
    said = " ".join(str(error).split())[:300]
    texts = [" ".join(str(cause).split()).lower() for cause in chain(error)]

    def says(words: tuple[str, ...]) -> bool:
        return any(word in text for word in words for text in texts)

    if isinstance(error, UserError):
        return UserError(names.model, model, error.remedy)
    if says(_PASSING) or passing(error):
        return EngineStartError(names.model, model, f"vLLM did not start: {said}; run the same command again")
    if says(_NO_GPU):
        return UserError(names.gpus, 0, f"this vLLM runs on GPUs only, and none was asked for: {said}")
    if says(_TOO_LONG):
        return UserError(names.length, length, f"vLLM cannot: {said}: lower it, or raise {names.memory}")
    if isinstance(error, OSError | ValueError | KeyError | ImportError) or type(error).__name__ == "SafetensorError":
        return UserError(names.model, model, f"vLLM cannot load it: {said}")
    return None
