"""Which modules an adapter goes to: linears of the part that reads text, as scoring knows their share and no other's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from trace_ray.errors import UserError, nearest
from trace_ray.model.decoder import text_decoder

ALL_LINEAR = "all-linear"
SETTING = "lora.target_modules"

_MAMBA = {"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"}
"""Families whose kernels read the weight of ``out_proj`` past its module; PEFT refuses it."""


def target_linears(causal: Any, targets: Sequence[str]) -> list[str]:
    """Returns PEFT's ``target_modules``: the words as they are, or full names where these would match other modules too.

    Args:
        causal: a causal language model, its weights anywhere, the meta device included.
        targets: names of modules, or their ends; ``all-linear`` alone = every linear of the decoder.
    Raises: UserError for a word that matches no module, or one that is no linear of the decoder.
    """
    linears = decoder_linears(causal)
    if ALL_LINEAR in targets:
        if len(targets) > 1:
            raise UserError(SETTING, ", ".join(targets), f"{ALL_LINEAR} is every linear already: name it alone")
        return sorted(linears)
    modules = dict(causal.named_modules())
    known = sorted({name.rpartition(".")[2] for name in linears})
    chosen: set[str] = set()
    plain = True
    for target in targets:
        matched = [name for name in modules if name == target or name.endswith(f".{target}")]
        inside = [name for name in matched if name in linears]
        if not inside:
            raise UserError(SETTING, target, _why_not(causal, target, matched, known))
        strange = [name for name in matched if name not in linears]
        plain = plain and not strange
        chosen.update(inside)
    return list(targets) if plain else sorted(chosen)


def decoder_linears(causal: Any) -> set[str]:
    """Returns the full names of the linears between tokens and hidden states; neither the head nor what reads images.

    Where PEFT takes a name for that of fused experts, linears of that name are left out too: their adapter could not be
    loaded again without the experts'.
    """
    from transformers.pytorch_utils import Conv1D

    inside = {id(module) for module in text_decoder(causal).modules()}
    head = causal.get_output_embeddings()
    leaves = {name.rpartition(".")[2] for name, _ in causal.named_modules()}
    taken = {leaf for leaf in leaves if leaf and _taken_for_experts(causal, leaf)}
    if causal.config.get_text_config().model_type in _MAMBA:
        taken.add("out_proj")
    return {
        name
        for name, module in causal.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D))
        and "Router" not in type(module).__name__  # Llama 4's is a linear that answers with a pair
        and id(module) in inside
        and module is not head
        and name.rpartition(".")[2] not in taken
    }


def _taken_for_experts(causal: Any, leaf: str) -> bool:
    """Whether PEFT adapts fused expert weights where a linear of this name is asked for (Qwen-MoE, DeepSeek, Mixtral)."""
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    asked = LoraConfig(target_modules=[leaf])
    try:
        convert_peft_config_for_transformers(asked, causal, None)
    except ValueError:  # fused with another
        return True
    return bool(asked.target_parameters)


def _why_not(causal: Any, target: str, matched: Sequence[str], known: Sequence[str]) -> str:
    remedy = f"this model's linears are {', '.join(known)}; use some of them, or {ALL_LINEAR}"
    if not matched and not _taken_for_experts(causal, target.rpartition(".")[2]):
        return f"no module has that name{nearest(target, [*known, ALL_LINEAR])}: {remedy}"
    if _taken_for_experts(causal, target.rpartition(".")[2]):
        return f"PEFT adapts fused expert weights under that name, which are not scored: {remedy}"
    module = causal.get_submodule(matched[0])
    if module is causal.get_output_embeddings() or isinstance(module, torch.nn.Embedding):
        return f"an adapter there is not scored, and tied weights cannot take it: {remedy}; realign.tune=full trains it"
    return f"{matched[0]} ({type(module).__name__}) is no linear of the part that reads text: {remedy}"
