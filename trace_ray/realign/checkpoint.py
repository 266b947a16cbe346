"""A training checkpoint: DeepSpeed's own shards, and the adapter whole, gathered from every shard."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

TAG = "deepspeed"
CURSOR = "cursor.json"


def save_checkpoint(engine: Any, policy: Any, folder: Path, cursor: dict[str, Any], rank: int) -> None:
    """Writes this rank's part of a checkpoint; every rank must call it, with a folder of its own or a shared one.

    Args:
        cursor: where in the data the run stands, and the metrics so far.
    Raises: RuntimeError for an adapter with empty or non-finite weights (ZeRO-3 saves empty ones if not gathered).
    """
    engine.save_checkpoint(str(folder), tag=TAG, client_state={"step": cursor["step"]}, exclude_frozen_parameters=True)
    state = gathered_adapter(policy)
    if rank == 0:
        from safetensors.torch import save_file

        check_weights(state)
        adapter = folder / "adapter"
        adapter.mkdir()
        policy.peft_config["default"].save_pretrained(str(adapter))
        save_file(state, str(adapter / "adapter_model.safetensors"))
        (folder / CURSOR).write_text(json.dumps(cursor))


def load_checkpoint(engine: Any, folder: Path) -> dict[str, Any]:
    """Restores weights, optimizer and schedule; returns the cursor."""
    engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
    return dict(json.loads((folder / CURSOR).read_text()))


def gathered_adapter(policy: Any) -> dict[str, torch.Tensor]:
    """Returns the adapter's weights under PEFT's names for a file, whole on every rank even where ZeRO-3 shards them."""
    import deepspeed
    from peft import get_peft_model_state_dict

    trainable = [p for p in policy.parameters() if p.requires_grad]
    with deepspeed.zero.GatheredParameters(trainable, enabled=any(hasattr(p, "ds_id") for p in trainable)):
        whole = {name: p.detach().cpu().clone() for name, p in policy.named_parameters() if p.requires_grad}
    state = get_peft_model_state_dict(policy, state_dict=whole)
    return {name: value.contiguous() for name, value in state.items()}


def check_weights(state: dict[str, torch.Tensor]) -> None:
    """Raises RuntimeError for no weights, an empty one or one that is not finite."""
    if not state:
        raise RuntimeError("the adapter has no weights")
    for name, value in state.items():
        if not value.numel() or not math.isfinite(float(value.float().abs().sum())):
            raise RuntimeError(f"adapter weight {name}: {'empty' if not value.numel() else 'not finite'}; not saved")
