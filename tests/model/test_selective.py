"""Layers that keep their dear outputs: the same gradients, and bytes and products between those of none and of whole ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import CheckpointPolicy

from trace_ray.config import LoraSettings
from trace_ray.model.flat import choose_packing
from trace_ray.model.fused import fuse
from trace_ray.model.loading import new_adapter
from trace_ray.model.log_probs import response_log_probs
from trace_ray.model.modes import checkpoint_layers, training_mode
from trace_ray.model.packing import Packed, pack
from trace_ray.model.selective import keeps

SHAPE: dict[str, Any] = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 3}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 1}
ROWS = [Packed([1, 5, 7, 44], ([9, 2, 60], [8, 1])), Packed([1, 4], ([3, 8, 6, 11, 2],))]
HOW: tuple[bool | str, ...] = (False, "selective", True)


class Work(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what is made and still there, and the products made."""

    def __init__(self, parameters: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.own = {parameter.untyped_storage()._cdata for parameter in parameters}
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}
        self.products = 0

    def __torch_dispatch__(self, operator: Any, _types: Any, arguments: Any = (), named: Any = None) -> Any:
        found = operator(*arguments, **(named or {}))
        self.products += operator.name() in ("aten::mm", "aten::addmm", "aten::addmm_")
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()  # type: ignore[no-untyped-call]
        return found

    def held(self) -> int:
        """Returns the bytes of what was made that something still holds."""
        others: list[tuple[Any, int]] = [entry for key, entry in self.made.items() if key not in self.own]
        return sum([size for ref, size in others if not ref.expired()])


def measured(family: str, how: bool | str, *, kernels: str, flat: bool, dropout: float) -> tuple[Any, int, int]:
    """Returns (gradients, bytes held between forward and backward, products of the backward)."""
    import transformers

    torch.manual_seed(0)
    kind = getattr(transformers, f"{family}Config")
    config = kind(**SHAPE, **({"attn_logit_softcapping": None, "head_dim": 8} if family == "Gemma2" else {}))
    base = getattr(transformers, f"{family}ForCausalLM")(config)
    targets = ("q_proj", "v_proj", "gate_proj", "down_proj")
    model = new_adapter(base, LoraSettings(r=4, alpha=8, dropout=dropout, target_modules=targets), 0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    if flat:
        assert choose_packing(model, "flat", "cpu")
    fuse(model, kernels, "cpu")
    checkpoint_layers(model, how)
    training_mode(model)
    torch.manual_seed(1)
    batch, work = pack(ROWS, flat=flat), Work(model.parameters())
    with work:
        loss = response_log_probs(model, batch).square().sum()
    held, work.products = work.held(), 0
    with work:
        loss.backward()  # type: ignore[no-untyped-call]
    return [p.grad for p in model.parameters() if p.requires_grad], held, work.products


@pytest.mark.parametrize(
    ("family", "kernels", "flat", "dropout"),
    [
        ("Llama", "torch", False, 0.0),
        ("Llama", "fused", True, 0.0),
        ("Llama", "fused", False, 0.5),
        ("Gemma2", "torch", True, 0.5),
    ],
)
def test_gradients_are_those_without_checkpointing_and_memory_and_work_lie_between(
    family: str, kernels: str, flat: bool, dropout: float
) -> None:
    found = [measured(family, how, kernels=kernels, flat=flat, dropout=dropout) for how in HOW]
    gradients, bytes_held, products = zip(*found, strict=True)
    for some in gradients[1:]:
        for mine, expected in zip(some, gradients[0], strict=True):
            assert expected.abs().max() > 0
            assert torch.equal(mine, expected)
    none, selective, whole = bytes_held
    assert whole < selective < none
    assert products[0] < products[1] < products[2]


def test_what_is_kept_by_hand() -> None:
    def kept(operator: Any, *arguments: Any) -> bool:
        return bool(keeps(None, operator, *arguments) is CheckpointPolicy.MUST_SAVE)

    aten = torch.ops.aten
    x_TI = torch.empty(5, 32)

    def weight(inner: int, outer: int) -> torch.Tensor:
        return torch.empty(inner, outer)

    assert kept(aten.mm.default, x_TI, weight(32, 64))
    assert not kept(aten.mm.default, x_TI, weight(32, 65))
    assert not kept(aten.mm.default, torch.empty(5, 4), weight(4, 32))  # an adapter's way back
    assert kept(aten.addmm.default, torch.empty(8), x_TI, weight(32, 8))
    assert not kept(aten.addmm_.default, torch.empty(5, 8), x_TI, weight(32, 8))  # done in place
    assert not kept(aten.bmm.default, torch.empty(2, 5, 32), torch.empty(2, 32, 5))  # the scores of eager attention
    assert kept(aten._scaled_dot_product_flash_attention.default)
    assert not kept(aten.mul.Tensor, x_TI, x_TI)
