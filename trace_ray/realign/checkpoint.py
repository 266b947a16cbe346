"""A training checkpoint: DeepSpeed's shards for a quick resume, and everything whole for another number of workers.

deepspeed/              each worker's shards; the same number of workers and ZeRO stage read them
weights.safetensors     the trained weights, whole
optimizer.safetensors   AdamW's moments and float32 masters by parameter, whole
adapter/                the adapter as PEFT writes it (lora)
cursor.json             step, schedule, workers, ZeRO stage, metrics so far; all the other files and their sizes
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trace_ray.errors import UserError
from trace_ray.realign.weights import check_weights, gathered_optimizer, gathered_weights, set_optimizer

TAG = "deepspeed"
CURSOR, WEIGHTS, OPTIMIZER, ADAPTER = "cursor.json", "weights.safetensors", "optimizer.safetensors", "adapter"
FILES = "files"
"""In cursor.json: {file of the checkpoint: bytes}, of all workers."""


def save_checkpoint(engine: Any, model: Any, folder: Path, cursor: dict[str, Any], *, whole: bool = True) -> None:
    """Writes this rank's part of a checkpoint; every rank must call it, with a folder of its own or a shared one.

    Args:
        cursor: where in the data the run stands, and the metrics so far.
        whole: also the optimizer's state for another number of workers.
    Raises: RuntimeError for empty or non-finite weights (ZeRO-3 saves empty ones if not gathered).
    """
    engine.save_checkpoint(str(folder), tag=TAG, exclude_frozen_parameters=True)
    first = engine.global_rank == 0
    weights = gathered_weights(model, keep=first)
    optimizer = gathered_optimizer(engine, model, keep=first) if whole else {}
    shards = _files_of_all(folder)
    if not first:
        return
    from safetensors.torch import save_file

    check_weights(weights)
    save_file(weights, str(folder / WEIGHTS))
    if whole:
        save_file(optimizer, str(folder / OPTIMIZER))
    if hasattr(model, "peft_config"):
        save_adapter(model, weights, folder / ADAPTER)
    placed: dict[str, Any] = {"workers": engine.world_size, "zero_stage": engine.zero_optimization_stage()}
    placed[FILES] = shards | _files(folder)
    (folder / CURSOR).write_text(json.dumps(cursor | placed | {"schedule": engine.lr_scheduler.state_dict()}))


def _files(folder: Path) -> dict[str, int]:
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*") if file.is_file()}


def _files_of_all(folder: Path) -> dict[str, int]:
    """Returns what every worker has written so far; in a shared folder one may see another's file half written."""
    import torch.distributed

    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, _files(folder))
    return {name: max(files.get(name, 0) for files in found) for sizes in found for name in sizes}


def load_checkpoint(engine: Any, model: Any, folder: Path) -> dict[str, Any]:
    """Restores weights, optimizer and schedule, whatever number of workers and ZeRO stage wrote them.

    Returns: the cursor.
    """
    cursor = dict(json.loads((folder / CURSOR).read_text()))
    if (cursor["workers"], cursor["zero_stage"]) == (engine.world_size, engine.zero_optimization_stage()):
        engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
        return cursor
    if not (folder / OPTIMIZER).exists():
        written = f"a checkpoint of {cursor['workers']} workers at ZeRO {cursor['zero_stage']}, without whole moments"
        seen = f"{engine.world_size} workers at ZeRO {engine.zero_optimization_stage()}"
        raise UserError(
            "realign.workers", seen, f"{written}: resume with the same, or begin anew with whole_checkpoints"
        )
    from safetensors.torch import load_file

    set_optimizer(engine, model, load_file(folder / OPTIMIZER), cursor["step"])
    engine.lr_scheduler.load_state_dict(cursor["schedule"])
    for group, rate in zip(engine.optimizer.param_groups, engine.lr_scheduler.get_last_lr(), strict=True):
        group["lr"] = rate  # a schedule sets it only at its next step
    engine.global_steps = cursor["step"]
    return cursor


def save_adapter(model: Any, weights: dict[str, Any], folder: Path) -> None:
    """Writes an adapter's whole ``weights`` as PEFT does.

    Args:
        model: the PEFT model that they are of; folder: made.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    state = get_peft_model_state_dict(model, state_dict=weights)
    folder.mkdir()
    model.peft_config["default"].save_pretrained(str(folder))
    save_file({name: value.contiguous() for name, value in state.items()}, str(folder / "adapter_model.safetensors"))
