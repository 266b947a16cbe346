"""Capability by lm-evaluation-harness: the same tasks for the base and the realigned model. Run in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trace_ray.config import CapabilityConfig, ModelConfig
from trace_ray.errors import UserError
from trace_ray.model.loading import model_tokenizer
from trace_ray.runtime import environment

_STDERR = "_stderr"


def run_harness(model: ModelConfig, config: CapabilityConfig, *, gpu: bool = False) -> dict[str, Any]:
    """Returns {task: {metric: {value, stderr}}} and the documents used, as the harness reports them.

    Args:
        model: what to load; its ``path`` is a local folder or a hub id.
        config: tasks, own task folder, documents a task.
    Raises: UserError where the extra ``eval`` is not installed or a task is unknown.
    """
    environment.prepare()
    try:
        from lm_eval.evaluator import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError(
            "evaluate.capability.tasks", list(config.tasks), f"pip install 'trace-ray[eval]' ({error})"
        ) from None
    manager = TaskManager(include_path=config.task_folder or None)
    unknown = [name for name in config.tasks if name not in manager.all_tasks]
    if unknown:
        remedy = "name a task of lm-evaluation-harness, or put its yaml file into evaluate.capability.task_folder"
        raise UserError("evaluate.capability.tasks", unknown[0], remedy)
    loaded = HFLM(
        pretrained=model.path,
        tokenizer=model_tokenizer(model) if model.chat_template else None,
        revision=model.revision,
        dtype=model.dtype,
        trust_remote_code=model.trusted,
        device="cuda" if gpu else "cpu",
        batch_size=config.batch_size,
        max_length=None,
    )
    results = simple_evaluate(
        model=loaded,
        tasks=list(config.tasks),
        limit=config.limit or None,
        num_fewshot=config.num_fewshot if config.num_fewshot >= 0 else None,
        apply_chat_template=config.chat_template,
        task_manager=manager,
        bootstrap_iters=1000,
        log_samples=False,
    )
    return harness_figures(results)


def harness_figures(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the numbers of the harness' result tree: {task: {metric: {value, stderr}}}, stderr None where it has none.

    The harness writes a metric as ``name,filter`` and its standard error as ``name_stderr,filter``.
    """
    figures: dict[str, Any] = {}
    for task, values in results["results"].items():
        for key, value in values.items():
            name, _, kept = key.partition(",")
            if not kept or name.endswith(_STDERR) or not isinstance(value, (int, float)):
                continue
            error = values.get(f"{name}{_STDERR},{kept}")
            known = float(error) if isinstance(error, (int, float)) else None
            metric = name if kept == "none" else f"{name} ({kept})"
            figures.setdefault(task, {})[metric] = {"value": float(value), "stderr": known}
    documents = {task: int(count["effective"]) for task, count in results.get("n-samples", {}).items()}
    return {"results": figures, "documents": documents}
