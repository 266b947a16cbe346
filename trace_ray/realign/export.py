"""From a trained adapter to model/: the adapter (PEFT) and the merged model, both reloaded before they count."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from trace_ray.artifacts import Run
from trace_ray.config import Config
from trace_ray.storage import Location, upload_folder

TOLERANCE = 1e-3
"""Largest difference of log-probs between base + adapter and the reloaded merged model, float32."""


def export_model(run: Run, config: Config, adapter: str, card: dict[str, Any]) -> float:
    """Writes RUN/model/adapter and RUN/model/merged.

    Args:
        adapter: local folder of the trained adapter.
        card: facts for the model card.
    Returns: the largest difference of next-token log-probs between adapter and reloaded merged model on a probe.
    Raises: RuntimeError where weights are empty, not finite, or the reloaded model differs.
    """
    import torch

    from trace_ray.models import load_adapter, load_model, load_tokenizer

    tokenizer = load_tokenizer(config.model.path, config.model.revision)
    probe = torch.tensor([tokenizer("The policy asks for an answer.", add_special_tokens=False)["input_ids"]])
    adapted = load_adapter(load_model(config.model), adapter, trainable=False).eval()
    before = _log_probs(adapted, probe)
    merged = adapted.merge_and_unload(safe_merge=True)
    broken = [name for name, p in merged.named_parameters() if not p.numel() or not torch.isfinite(p).all()]
    if broken:
        raise RuntimeError(f"not exported: weights empty or not finite: {', '.join(broken[:3])}")
    merged.config.name_or_path = ""
    with tempfile.TemporaryDirectory() as folder:
        merged.save_pretrained(folder, safe_serialization=True)
        tokenizer.save_pretrained(folder)
        (Path(folder) / "README.md").write_text(model_card(card), encoding="utf-8")
        difference = float((before - _log_probs(_reloaded(folder, config), probe)).abs().max())
        if not difference <= (TOLERANCE if config.model.dtype == "float32" else 0.1):
            raise RuntimeError(f"not exported: the reloaded merged model differs by {difference} in log-probs")
        _copy(Path(folder), run.model.place / "merged")
    _copy(Path(adapter), run.model.place / "adapter")
    return difference


def _copy(source: Path, target: Location) -> None:
    import shutil

    upload_folder(lambda folder: shutil.copytree(source, folder, dirs_exist_ok=True), target)


def _reloaded(folder: str, config: Config) -> Any:
    from dataclasses import replace

    from trace_ray.models import load_model

    return load_model(replace(config.model, path=folder, revision="main"))


def _log_probs(model: Any, probe: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model(probe).logits.float().log_softmax(-1)


def model_card(card: dict[str, Any]) -> str:
    """Returns the model card: front matter and one line a fact."""
    lines = [
        "---",
        f"base_model: {card['base model']}",
        "library_name: transformers",
        "tags: [trace-ray, realigned]",
        "---",
        "",
    ]
    lines += [f"# Realigned with trace-ray ({card['method']})", ""]
    lines += [f"- {name}: {value}" for name, value in card.items()]
    return "\n".join([*lines, "", "Its licence is the base model's.", ""])
