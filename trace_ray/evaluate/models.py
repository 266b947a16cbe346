"""What is measured on the models themselves, not on answers: drift by actors that keep them, capability by tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trace_ray.config import Config
from trace_ray.evaluate.drift_sum import DriftSum
from trace_ray.model.kept import MODEL, kept
from trace_ray.pairs import MODELS
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import Location
from trace_ray.storage.staging import download_folder

if TYPE_CHECKING:
    import torch

    from trace_ray.chat.text import TokenizedPair
    from trace_ray.model.budget import TokenBudget

_REFERENCE = "reference model"


def measure_drift(run: Run, config: Config, rows: Sequence[dict[str, Any]]) -> DriftSum:
    """Returns how far the run's model drifted from its base on the RETAIN pairs ``rows``.

    The process keeps what it has loaded: one copy of the weights where the run kept an adapter (the base is the adapter
    switched off), else two models.
    """
    from trace_ray.evaluate.drift import drift_sums

    device = _device(config)
    model = kept(
        MODEL, f"{run.model.place.uri} {config.model}", lambda: _ready(_realigned(run, config), config, device)
    )
    adapted = hasattr(model, "get_base_model")
    reference = None
    if not adapted:
        reference = kept(_REFERENCE, str(config.model), lambda: _ready(_base(config), config, device))
    return sum(drift_sums(model, reference, _tokens(config, rows), _budget(config, model, reference)), DriftSum())


def measure_adapter(config: Config, rows: Sequence[dict[str, Any]], place: Location) -> dict[str, float]:
    """Returns the figures of ``DriftSum`` of an adapter, from the RETAIN pairs ``rows``.

    Args:
        place: its folder; the process keeps the base for the next adapter.
    """
    from trace_ray.evaluate.drift import drift
    from trace_ray.model.loading import load_adapter

    device = _device(config)
    base = kept(MODEL, str(config.model), lambda: _base(config).to(device))
    with download_folder(place) as folder:
        adapted = load_adapter(base, folder, trainable=False).eval().to(device)
    try:
        return drift(adapted, None, _tokens(config, rows), _budget(config, adapted, None))
    finally:
        adapted.unload()


def _realigned(run: Run, config: Config) -> Any:
    from trace_ray.model.loading import load_adapter, load_model

    adapter, merged = run.model.place / "adapter", run.model.place / "merged"
    if adapter.exists():
        with download_folder(adapter) as folder:
            return load_adapter(_base(config), folder, trainable=False).eval()
    with download_folder(merged) as folder:
        return load_model(config.model.exported_to(folder))


def _base(config: Config) -> Any:
    from trace_ray.model.loading import load_model
    from trace_ray.model.probe import check_log_probs

    base = load_model(config.model)
    check_log_probs(base, config.model.path)
    return base


def _ready(model: Any, config: Config, device: torch.device) -> Any:
    """Returns the model on the device, run as the settings say."""
    from trace_ray.model.flat import choose_packing
    from trace_ray.model.fused import fuse

    model = model.to(device)
    choose_packing(model, config.model.packing, device)
    fuse(model, config.model.kernels, device)
    return model


def _device(config: Config) -> torch.device:
    """Uses the cores that this process was given; returns where it measures."""
    import torch

    torch.set_num_threads(max(1, int(config.evaluate.num_cpus)))
    return torch.device("cuda" if config.evaluate.gpus and torch.cuda.is_available() else "cpu")


def _tokens(config: Config, rows: Sequence[dict[str, Any]]) -> list[TokenizedPair]:
    from trace_ray.chat.text import accepted
    from trace_ray.model.loading import load_chat_tokenizer

    tokenizer = kept("tokenizer", str(config.model), lambda: load_chat_tokenizer(config.model))
    return accepted(tokenizer.pairs([row["prompt"] for row in rows], [{"chosen": row["chosen"]} for row in rows]))


def _budget(config: Config, model: Any, reference: Any) -> TokenBudget:
    """Returns the tokens that this process runs at once through both models, see ``drift_sums``."""
    from trace_ray.evaluate.drift import drift_trial
    from trace_ray.model.budget import kept_budget

    evaluate = config.evaluate
    return kept_budget(
        f"{config.model} {evaluate}",
        evaluate.batch_tokens,
        next(model.parameters()).device,
        lambda tokens: drift_trial(model, reference, tokens),
        gpus=evaluate.gpus,
        longest=config.model.max_length,
        setting="evaluate.batch_tokens",
        remedy="lower model.max_length",
    )


def measure_capability(run: Run, config: Config, model: str) -> dict[str, Any]:
    """Returns the harness' figures for ``base`` or ``realigned``."""
    import torch

    from trace_ray.evaluate.capability import run_harness

    torch.set_num_threads(max(1, int(config.evaluate.num_cpus)))
    gpu = bool(config.evaluate.gpus)
    if model == MODELS[0]:
        return run_harness(config.model, config.evaluate.capability, gpu=gpu)
    with download_folder(run.model.place / "merged") as folder:
        return run_harness(config.model.exported_to(folder), config.evaluate.capability, gpu=gpu)
