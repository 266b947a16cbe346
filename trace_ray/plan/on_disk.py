"""What a training puts on disk beside its model, where that is much: the reference's hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trace_ray.config import Config, ModelConfig
from trace_ray.plan.stage_row import StageEstimate
from trace_ray.plan.workload import Workload
from trace_ray.storage.staging import local_model

GIB = 2**30


def hidden_bytes(tokens: int, width: int, dtype: str) -> int:
    """Returns the bytes of the hidden states of so many tokens, once.

    >>> hidden_bytes(1000, 4096, "bfloat16")
    8192000
    """
    return tokens * width * (4 if dtype == "float32" else 2)


def with_disk(stages: Sequence[StageEstimate], load: Workload, config: Config) -> list[StageEstimate]:
    """Returns the stages, of realign what it stores of the reference said in ``work``: in the run's folder and on each node."""
    if config.realign.kl_reference != "hidden" or not load.reference_tokens:
        return list(stages)
    gib = hidden_bytes(load.reference_tokens, _width(config.model), config.model.dtype) / GIB
    said = f", {gib:.2g} GiB of hidden states on disk and as much again on each node"
    return [replace(stage, work=stage.work + said) if stage.stage == "realign" else stage for stage in stages]


def _width(model: ModelConfig) -> int:
    from transformers import AutoConfig

    found = AutoConfig.from_pretrained(
        local_model(model.path), revision=model.revision, trust_remote_code=model.trusted
    )
    return int(found.get_text_config().hidden_size)
