"""What a training worker builds before its first step: model, reference, engine."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from trace_ray.config import Config, ModelConfig, ObjectiveConfig, RealignConfig
from trace_ray.config.zero import deepspeed_config
from trace_ray.errors import UserError
from trace_ray.realign.schedule import make_optimizer
from trace_ray.runs.artifacts import ADAPTER_INIT, Run
from trace_ray.runtime import environment
from trace_ray.storage.staging import download_folder

if TYPE_CHECKING:
    from trace_ray.realign.engine import DeepSpeedEngine

Made = TypeVar("Made")


def prepare_process(realign: RealignConfig) -> None:
    """Sets environment, logging and threads of a worker."""
    environment.prepare()
    if not realign.on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import torch

    if not realign.on_gpu:
        torch.set_num_threads(max(1, int(realign.num_cpus)))


def together(make: Callable[[], Made]) -> Made:
    """Returns what ``make`` makes; where any worker's raises a UserError, all workers raise it.

    A worker that went on alone would wait for the others in its next collective call. ``make`` must hold none.
    """
    import torch.distributed

    made, mistake = None, None
    try:
        made = make()
    except UserError as error:
        mistake = error
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, mistake)
    for refusal in found:
        if refusal is not None:
            raise refusal
    return cast(Made, made)


def shared_weights(realign: RealignConfig, workers: int) -> bool:
    """Returns whether the first worker alone reads the model's weights: at ZeRO 3 each keeps a part of what that one has.

    Read by all, they would lie in the memory of a node once for each of its workers.
    """
    return realign.zero_stage == 3 and workers > 1


def adopt_first(path: str, *models: Any) -> None:
    """Gives ``blank_model``s the first worker's buffers; the weights come from it as ZeRO 3 parts them. Collective.

    Args:
        path: ``model.path``; models: of one kind on all workers, the first one's whole; None is passed over.
    Raises: UserError, on all workers alike, where their models do not agree in parameters or configuration.
    """
    import torch.distributed

    for model in (model for model in models if model is not None):
        shapes = [(name, tuple(p.shape), str(p.dtype)) for name, p in model.named_parameters()]
        told = model.config.to_dict() | {"_name_or_path": ""}  # a node's copy may lie anywhere
        mine = shapes, json.dumps(told, sort_keys=True, default=str)
        sent: list[Any] = [mine, dict(model.named_buffers())]
        torch.distributed.broadcast_object_list(sent, 0)
        found: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(found, mine == sent[0])
        if not all(found):
            remedy = "workers find different versions of it: let all nodes read the same files, or name a revision"
            raise UserError("model.path", path, remedy)
        for name, buffer in model.named_buffers():
            buffer.data = sent[1][name].to(buffer.device)


def load_policy(run: Run, config: Config, *, whole: bool = True) -> tuple[Any, Any]:
    """Returns (the model to train, its frozen reference copy or None).

    With an adapter it starts from RUN/impact/adapter_init, as scoring did.

    Args:
        whole: with the model's weights; else what they hold is to come from another worker.
    """
    from trace_ray.model.flat import choose_packing
    from trace_ray.model.loading import blank_model, load_adapter, load_model
    from trace_ray.model.modes import checkpoint_layers
    from trace_ray.model.probe import check_log_probs

    load = load_model if whole else blank_model
    model = load(config.model)
    if whole:
        check_log_probs(model, config.model.path)
    if config.realign.tune == "full":
        model.requires_grad_(True)
        reference = load(config.model) if _takes_copy(config.objective, config.realign) else None
    else:
        with download_folder(run.impact.place / ADAPTER_INIT) as folder:
            model, reference = load_adapter(model, folder, trainable=True), None
    for each in (model, reference) if reference is not None else (model,):
        choose_packing(each, config.model.packing, "cuda" if config.realign.on_gpu else "cpu")
    checkpoint_layers(model, config.realign.gradient_checkpointing)
    return model, reference


def _takes_copy(objective: ObjectiveConfig, realign: RealignConfig) -> bool:
    return bool(objective.token_terms()) and realign.kl_reference == "frozen_copy"


def compile_nothing() -> None:
    """Keeps DeepSpeed from compiling its shared-memory op on CPUs, which nothing in training uses.

    A process that is killed meanwhile leaves a lock behind in ~/.cache, and every later training would wait for it.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def make_engine(
    model: Any, reference: Any, realign: RealignConfig, settings: ModelConfig, steps: int
) -> DeepSpeedEngine:
    """Returns DeepSpeed's engine around the policy, in training mode: an adapter's dropout is all that is random.

    Args:
        settings: of the model, for its dtype and kernels.
        steps: of the training, for the schedule.
    """
    import deepspeed

    from trace_ray.model.fused import fuse
    from trace_ray.model.modes import training_mode
    from trace_ray.realign.engine import DeepSpeedEngine
    from trace_ray.realign.policy_module import HybridPolicy

    compile_nothing()
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer, schedule = make_optimizer(trainable, realign, steps, "cuda" if realign.on_gpu else "cpu")
    engine, *_ = deepspeed.initialize(
        model=HybridPolicy(model, reference),
        model_parameters=trainable,
        optimizer=optimizer,
        lr_scheduler=schedule,
        config=deepspeed_config(realign, settings.dtype),
    )
    engine.train()
    training_mode(engine.module)
    for each in (model, reference) if reference is not None else (model,):
        fuse(each, settings.kernels, engine.device, sharded=realign.zero_stage == 3)
    return DeepSpeedEngine(engine, model)
