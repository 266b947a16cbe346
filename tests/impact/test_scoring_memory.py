"""What scoring of every weight holds is what ``model.fit`` says: live tensors, counted, of a small bfloat16 model.

The model is nearly all weights: three tokens' activations beside them are less than the tolerance.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from trace_ray.config import StorageConfig
from trace_ray.impact.curvature import gauss_newton_product
from trace_ray.impact.direction import gold_gradient
from trace_ray.impact.scores import Scorer
from trace_ray.impact.tasks import DIRECTION, placed_direction
from trace_ray.model.fit import WORKSPACE, scoring_bytes, shape_of
from trace_ray.model.packing import pack_each
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate

ROWS = [{"prompt_ids": [1, 5], "preferred_ids": [7], "dispreferred_ids": [9]}]


@pytest.fixture
def model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 8, "num_attention_heads": 4}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, **shape)).to(torch.bfloat16).eval()


def said(model: Any, curvature: str = "identity") -> float:
    """Bytes that the arithmetic has for this model, less what a card's libraries take."""
    shape = shape_of(model.config, model.num_parameters(), "bfloat16")
    return scoring_bytes(shape, full=True, curvature=curvature) - WORKSPACE


class Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that operations return, as long as their storages are alive, and the most at once."""

    def __init__(self, *known: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live: dict[int, int] = {}
        self.most = 0
        tree_map_only(
            torch.Tensor, self._note, [list(k.parameters()) if hasattr(k, "parameters") else k for k in known]
        )

    def _note(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.live:
            self.live[key] = storage.nbytes()
            weakref.finalize(storage, self.live.pop, key, None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._note, made)
        self.most = max(self.most, sum(self.live.values()))
        return made


def most_held(work: Callable[[], object], *known: Any) -> int:
    """Bytes of all tensors that were alive at once while it worked, those ``known`` before among them."""
    held = Held(*known)
    with held:
        work()
    return held.most


def test_the_gold_gradient_of_every_weight_takes_what_is_said(model: Any) -> None:
    # Whether prompts may be shared is tried on a small model of the family, which is as large as this one.
    held = most_held(lambda: gold_gradient(model, ROWS, beta=0.3, batch_tokens=64, share_prompts=False), model)
    assert held == pytest.approx(said(model), rel=0.05)


def test_a_curvature_product_takes_what_is_said(model: Any) -> None:
    vector = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    product = lambda: gauss_newton_product(model, ROWS, vector, batch_tokens=64)  # noqa: E731
    held = most_held(product, model, *vector.values())
    assert held == pytest.approx(said(model, "gauss_newton"), rel=0.05)


def test_scores_take_weights_and_the_direction_in_their_dtype(model: Any, tmp_path: Path) -> None:
    run = Run(locate(str(tmp_path / "run"), StorageConfig()))
    place, parameters = run.impact.place, dict(model.named_parameters())
    parts = {f"part-{i}.safetensors": list(parameters)[i::2] for i in range(2)}
    for file, names in parts.items():
        (place / file).write_bytes(save({name: torch.randn(parameters[name].shape) for name in names}))
    (place / DIRECTION).write_text(json.dumps({"parts": list(parts)}))
    model.requires_grad_(False)
    direction = placed_direction(run, model)
    assert {name: value.dtype for name, value in direction.items()} == dict.fromkeys(parameters, torch.bfloat16)
    batch = pack_each([([1, 5], [7])])
    held = most_held(lambda: Scorer(model, direction).score(batch), model, *direction.values())
    weights = 2 * model.num_parameters()
    assert held == pytest.approx(2 * weights, rel=0.05)
    assert held < said(model)
