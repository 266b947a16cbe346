"""A small random model of a large one's family: what is wrong with it in small is wrong with it at its size.

Every layer kind, multiplier, cap and window of the configuration stays; widths, vocabulary, experts and the number of
layers shrink. So a family can be tried on any machine, in float32, without the weights.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import torch

MOST_WEIGHTS = 40_000_000
"""Of a model that is tried: a quarter of a GB in float32, and a forward in less than a second."""

FITTING_ERRORS = (
    ValueError,
    TypeError,
    RuntimeError,
    IndexError,
    KeyError,
    AttributeError,
    ArithmeticError,
    AssertionError,
)
"""What a family raises where sizes do not fit one another, or where it does not know an argument of ours."""

_WIDTH = re.compile(
    r"(\w*hidden_size\w*|\w*intermediate_size\w*|\w*_dim|d_model|d_ff|dff|dim_ff|dim_head|d_head|n_embd|n_inner|embedding_size"
    r"|\w*head_dim|\w*_d_head|mamba_headdim|mamba_d_ssm|\w*_rank|lru_width|kv_channels|dim_model_base|attention_head_size)"
)
_EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_RECIPES = ((16, True), (32, True), (16, False), (8, True), (4, True), (2, True), (1, True))
"""(what widths are divided by, whether there are fewer experts), the smallest first."""

_MOST = {"vocab_size": 512, "vocab_size_per_layer_input": 512, "mamba_chunk_size": 32, "chunk_size": 32}
_MOST |= {"mamba_d_state": 16, "ssm_state_size": 16, "state_size": 16}
_EXPERTS_KEPT, _LAYERS_KEPT = 16, 8
TRIAL_TOKENS = tuple(range(11, 40))


def stand_in(model_class: Any, config: Any) -> Any | None:
    """Returns a model of ``model_class`` in evaluation mode, frozen, with weights by which every part matters.

    Args:
        model_class: of transformers, a causal language model; config: of a model of any size; it stays as it is.
    Returns: None where no recipe gives a model that runs.
    """
    for small in _smaller(config):
        model = _built(model_class, small)
        if model is not None:
            return model
    return None


def _smaller(config: Any) -> Iterator[Any]:
    """Yields the configuration itself, then ever less of it cut away."""
    config = copy.deepcopy(config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    yield config
    for divisor, fewer in _RECIPES:
        small = copy.deepcopy(config)
        _shrink(small.get_text_config(), divisor, fewer_experts=fewer)
        for part in vars(small).values():
            if hasattr(part, "to_dict") and part is not small.get_text_config():
                _keep_layers(part, 1)
        yield small


def _shrink(text: Any, divisor: int, *, fewer_experts: bool) -> None:
    for name, value in list(text.to_dict().items()):
        if isinstance(value, int) and not isinstance(value, bool) and value >= divisor and _WIDTH.fullmatch(name):
            setattr(text, name, value // divisor)
    if fewer_experts:
        for name in _EXPERTS:
            if isinstance(value := getattr(text, name, None), int):
                setattr(text, name, min(value, _EXPERTS_KEPT))
    for name, most in _MOST.items():
        if isinstance(value := getattr(text, name, None), int):
            setattr(text, name, min(value, most))
    if isinstance(getattr(text, "pad_token_id", None), int):
        text.pad_token_id = 0  # a row of the embedding
    _keep_layers(text, _LAYERS_KEPT)


def _keep_layers(part: Any, most: int) -> None:
    """Keeps the first layers, and one of each kind that the configuration lists."""
    count = next((value for name in _LAYERS if isinstance(value := getattr(part, name, None), int)), 0)
    if count <= most:
        return
    lists = {n: v for n, v in part.to_dict().items() if isinstance(v, (list, tuple)) and len(v) == count}
    # A list of as many different values as layers numbers them, such as Llama 4's of layers with experts.
    named = [values for values in lists.values() if len({str(value) for value in values}) <= _LAYERS_KEPT]
    kinds = list(zip(*named, strict=True)) if named else [()] * count
    first = {str(kind): at for at, kind in reversed(list(enumerate(kinds)))}
    kept = sorted({*range(most), *first.values()})
    for name in _LAYERS:
        if isinstance(getattr(part, name, None), int):
            setattr(part, name, len(kept))
    for name, values in lists.items():
        setattr(part, name, type(values)(values[at] for at in kept))


def _built(model_class: Any, config: Any) -> Any | None:
    """Returns the model, or None where it is too large, cannot be built, or does not run."""
    try:
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in model_class(copy.deepcopy(config)).parameters())
        if size > MOST_WEIGHTS:
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = model_class._from_config(config, dtype=torch.float32)  # noqa: SLF001 - for a class there is no other
            _enliven(model)
        model = model.eval().requires_grad_(False)
        vocabulary = model.get_input_embeddings().weight.shape[0]
        tokens = torch.tensor([TRIAL_TOKENS]) % vocabulary
        with torch.inference_mode():
            logits = model(input_ids=tokens, use_cache=False).logits
    except FITTING_ERRORS:
        return None
    right = logits.shape[:2] == tokens.shape and bool(torch.isfinite(logits).all())
    return model if right else None


def _enliven(model: Any) -> None:
    """Gives matrices entries that keep a signal's size, so that no part is drowned as at initialisation."""
    for parameter in model.parameters():
        with torch.no_grad():
            if parameter.dim() >= 2:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
            elif not parameter.any():
                parameter.normal_(std=0.1)
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_()
        head = model.get_output_embeddings()
        if head is not None and head.weight is not model.get_input_embeddings().weight:
            head.weight.mul_(4)  # logits at which a soft cap shows
