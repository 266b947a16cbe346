"""A model's generation_config.json, made such that transformers saves it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trace_ray.config import ModelConfig
from trace_ray.errors import UserError
from trace_ray.runtime.progress import warn
from trace_ray.storage.staging import local_model

_SWITCHES = ("do_sample", "num_beams", "use_cache", "return_dict_in_generate")
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")


def check_generation(config: ModelConfig) -> None:
    """Says what of the model's generation_config.json is saved otherwise with the realigned model.

    Raises: UserError where it could not be saved at all.
    """
    from transformers import GenerationConfig

    try:
        found = GenerationConfig.from_pretrained(local_model(config.path), revision=config.revision)
        mended = mended_generation(found)
    except OSError:  # none there: transformers makes one
        return
    except (ValueError, TypeError) as error:
        said = " ".join(str(error).split())[:200]
        remedy = f"mend its generation_config.json, which could not be saved with the realigned model: {said}"
        raise UserError("model.path", config.path, remedy) from None
    if changes := _changes(found.to_diff_dict(), mended.to_diff_dict()):
        warning = f"{config.path}: generation_config.json contradicts itself; the realigned model gets {changes}"
        warn(warning)


def mended_generation(found: Any) -> Any:
    """Returns the generation config with what contradicts itself left out, as transformers demands of one it saves.

    A temperature without do_sample, as Llama-2-chat and Vicuna were published, means sampling: their authors added
    do_sample=true later. Where do_sample is false by name, the temperature goes.

    Raises: ValueError for one that no leaving out mends.
    """
    from transformers import GenerationConfig

    if _valid(found.to_diff_dict()):
        return found
    stored = found.to_diff_dict()
    if stored.get("do_sample") is None and any(stored.get(name) is not None for name in _SAMPLING):
        stored["do_sample"] = True
    kept: dict[str, Any] = {}
    for name in sorted(stored, key=lambda name: name not in _SWITCHES):
        if _valid(kept | {name: stored[name]}):
            kept[name] = stored[name]
    mended = GenerationConfig(**kept)
    mended.validate(strict=True)
    return mended


def _valid(stored: Mapping[str, Any]) -> bool:
    from transformers import GenerationConfig

    try:
        GenerationConfig(**stored).validate(strict=True)
    except ValueError:
        return False
    return True


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    added = [f"{name}={value}" for name, value in after.items() if name not in before]
    return ", ".join([*added, *(f"no {name}" for name in before if name not in after)])
