"""From trained weights to model/: the adapter (PEFT) and the merged model, both reloaded before they count."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from trace_ray.artifacts import Run
from trace_ray.config import Config
from trace_ray.realign.card import base_licence, model_card
from trace_ray.realign.checkpoint import ADAPTER, WEIGHTS
from trace_ray.storage import upload_files

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
"""Largest difference of log-probs between the trained and the reloaded merged model, by dtype."""


def export_model(run: Run, config: Config, checkpoint: str, card: dict[str, Any]) -> float:
    """Writes RUN/model/merged and, where an adapter was trained, RUN/model/adapter.

    Args:
        checkpoint: local folder of the last checkpoint.
        card: facts for the model card.
    Returns: the largest difference of next-token log-probs between trained and reloaded merged model on a probe.
    Raises: RuntimeError where weights are empty, not finite, or the reloaded model differs.
    """
    import torch

    from trace_ray.models import load_tokenizer

    tokenizer = load_tokenizer(config.model.path, config.model.revision, config.model.trusted)
    probe = torch.tensor([tokenizer("The policy asks for an answer.", add_special_tokens=False)["input_ids"]])
    trained = trained_model(config, Path(checkpoint))
    before = _log_probs(trained, probe)
    adapted = config.realign.tune == "lora"
    merged = trained.merge_and_unload(safe_merge=True) if adapted else trained
    broken = [name for name, p in merged.named_parameters() if not p.numel() or not torch.isfinite(p).all()]
    if broken:
        raise RuntimeError(f"not exported: weights empty or not finite: {', '.join(broken[:3])}")
    merged.config.name_or_path = ""
    with tempfile.TemporaryDirectory() as folder:
        merged.save_pretrained(folder, safe_serialization=True)
        merged.generation_config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (Path(folder) / "README.md").write_text(model_card(card, base_licence(config.model.path)), encoding="utf-8")
        difference = float((before - _log_probs(_reloaded(folder, config), probe)).abs().max())
        if not difference <= TOLERANCE[config.model.dtype]:
            raise RuntimeError(f"not exported: the reloaded merged model differs by {difference} in log-probs")
        upload_files(Path(folder), run.model.place / "merged")
    if adapted:
        upload_files(Path(checkpoint) / ADAPTER, run.model.place / ADAPTER)
    return difference


def trained_model(config: Config, checkpoint: Path) -> Any:
    """Returns the model with what a checkpoint trained, in evaluation mode. Raises RuntimeError where a weight is missing."""
    from trace_ray.models import load_adapter, load_model

    model = load_model(config.model)
    if config.realign.tune == "lora":
        return load_adapter(model, checkpoint / ADAPTER, trainable=False).eval()
    from safetensors.torch import load_file

    state = load_file(checkpoint / WEIGHTS)
    absent = {name for name, _ in model.named_parameters()} - set(state)
    if absent:
        raise RuntimeError(f"not exported: the checkpoint lacks {', '.join(sorted(absent)[:3])}")
    model.load_state_dict(state, strict=False)
    return model.eval()


def _reloaded(folder: str, config: Config) -> Any:
    from trace_ray.models import load_model

    return load_model(config.model.exported_to(folder))


def _log_probs(model: Any, probe: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model(probe).logits.float().log_softmax(-1)
