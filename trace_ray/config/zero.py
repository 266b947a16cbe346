"""DeepSpeed's configuration, built in this one place. Pure: nothing of DeepSpeed is imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trace_ray.config.realign import RealignConfig
from trace_ray.errors import UserError

_OFFLOADED = ("zero_optimization.offload_optimizer", "zero_optimization.offload_param")
"""Sections whose further keys may be given where ``realign.offload`` has them."""
_OLD_NAMES = tuple(
    f"zero_optimization.{name}" for name in ("cpu_offload", "cpu_offload_param", "cpu_offload_use_pin_memory")
)
"""DeepSpeed still takes them, over what those sections say."""
_OWNERS = {
    "train_batch_size": "realign.batch",
    "train_micro_batch_size_per_gpu": "realign.micro_tokens",
    "gradient_accumulation_steps": "realign.micro_tokens",
    "gradient_clipping": "realign.max_grad_norm",
    "optimizer": "realign.learning_rate",
    "scheduler": "realign.schedule",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "amp": "model.dtype",
    "torch_autocast": "model.dtype",
    "activation_checkpointing": "realign.gradient_checkpointing",
    "elasticity": "realign.min_workers",
    "zero_optimization.stage": "realign.zero_stage",
    **dict.fromkeys((*_OFFLOADED, *_OLD_NAMES), "realign.offload"),
}
"""Keys of DeepSpeed's that a setting of ours decides, and which."""
_NEVER = ("prescale_gradients", "tensor_parallel", "checkpoint.load_universal")
"""Keys that would have gradients summed where they are averaged, split what each worker is to hold, and have checkpoints read
in another form than they are written in."""


def deepspeed_config(realign: RealignConfig, dtype: str) -> dict[str, Any]:
    """Returns the dict that ``deepspeed.initialize`` reads.

    Args:
        realign: clipping, ZeRO stage (0 = plain data parallel, 1 optimizer sharded, 2 + gradients, 3 + parameters),
            what is kept in CPU memory, and further keys of DeepSpeed's own, which never go before ours.
        dtype: of the model's weights: float32 or bfloat16.

    The batch keys count nothing here: micro-batches are made to a token budget, so their number differs from step to
    step, and the loop itself says where a step ends.
    """
    return _joined(realign.deepspeed, _ours(realign, dtype))


def deepspeed_problems(realign: RealignConfig, dtype: str) -> Iterator[UserError]:
    """Yields the keys of ``realign.deepspeed`` that settings of ours decide, or on which training rests, said otherwise."""
    ours = _ours(realign, dtype)
    for key, seen in _leaves(realign.deepspeed):
        set_here = _at(ours, key)
        owner = next((owner for known, owner in _OWNERS.items() if _within(key, known)), "")
        added = any(key.startswith(f"{section}.") and _at(ours, section) is not None for section in _OFFLOADED)
        free = added or not (owner or any(_within(key, known) for known in _NEVER))
        if seen == set_here or (set_here is None and free):
            continue
        remedy = f"{owner} decides that: set it there"
        if not owner:
            section = isinstance(set_here, Mapping)
            remedy = "it is a section: give its keys" if section else "training rests on what it is: leave it out"
        yield UserError(f"realign.deepspeed.{key}", seen, remedy)


def _within(key: str, section: str) -> bool:
    return f"{key}.".startswith(f"{section}.")


def _leaves(given: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in given.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _at(section: Mapping[str, Any], key: str) -> Any:
    """What stands at a dotted key; None where nothing does."""
    first, _, rest = key.partition(".")
    found = section.get(first)
    return _at(found, rest) if rest and isinstance(found, Mapping) else None if rest else found


def _joined(given: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Returns both, ours on top, section by section."""
    sections = {name: mine for name, mine in ours.items() if isinstance(mine, Mapping) and name in given}
    return {**given, **ours, **{name: _joined(given[name], mine) for name, mine in sections.items()}}


def _ours(realign: RealignConfig, dtype: str) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": realign.max_grad_norm,
        "bf16": {"enabled": dtype == "bfloat16"},
        # Where the model is bfloat16, DeepSpeed would add up micro-batches and workers in it: of 1 + 1/1024 it keeps 1.
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_optimization": _zero(realign, dtype),
        "zero_allow_untested_optimizer": True,  # torch's AdamW: DeepSpeed's own needs a compiler on every node
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


def used_stage(zero_stage: int, dtype: str) -> int:
    """Returns the ZeRO stage that is run: 1 for 0 in bfloat16, where DeepSpeed hides the float32 masters and moments."""
    return max(zero_stage, 1) if dtype == "bfloat16" else zero_stage


def _zero(realign: RealignConfig, dtype: str) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": used_stage(realign.zero_stage, dtype)}
    memory = {"device": "cpu", "pin_memory": realign.on_gpu}
    if realign.offload != "none":
        zero["offload_optimizer"] = memory
    if realign.offload == "all":
        zero["offload_param"] = memory
    return zero
