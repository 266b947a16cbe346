"""From trained weights to model/: the adapter (PEFT), then the merged model, reloaded and compared before it counts."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trace_ray.config import Config, ModelConfig
from trace_ray.errors import UserError
from trace_ray.realign.card import base_licence, model_card
from trace_ray.realign.checkpoint import ADAPTER, WEIGHTS
from trace_ray.realign.generation import mended_generation
from trace_ray.realign.likeness import Likeness, in_float32, likeness, merged_once, probe_log_probs
from trace_ray.realign.weights import check_weights
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import upload_files

MERGED = "merged"
_PROBE_ROWS, _PROBE_TOKENS = 16, 512


def export_model(run: Run, config: Config, checkpoint: str, card: dict[str, Any]) -> Likeness:
    """Writes RUN/model/adapter where an adapter was trained, and RUN/model/merged.

    The adapter goes first: whatever the merged model meets, what was trained is there.

    Args:
        checkpoint: local folder of the last checkpoint.
        card: facts for the model card.
    Returns: how like the reloaded merged model is to the trained one.
    Raises: RuntimeError where weights are empty or not finite; UserError where the reloaded model differs by more than
        rounding explains: nothing is merged then, and the adapter stays.
    """
    from trace_ray.model.loading import load_model

    folder = Path(checkpoint)
    adapted = config.realign.tune == "lora"
    if adapted:
        _publish_adapter(run, folder)
    trained = trained_model(config.model, folder, adapted=adapted)
    probe = _probe_sequences(run, config.model.max_length)
    rounded_NV = probe_log_probs(trained, probe)
    with in_float32(trained):
        exact_NV = probe_log_probs(trained, probe)
    merged = merged_once(trained) if adapted else trained
    with tempfile.TemporaryDirectory() as made:
        _save(merged, Path(made), config.model, card)
        del trained, merged
        found = likeness(exact_NV, rounded_NV, probe_log_probs(load_model(config.model.exported_to(made)), probe))
        if not found.alike:
            raise _refusal(run, found, adapted=adapted)
        upload_files(Path(made), run.model.place / MERGED)
    return found


def _publish_adapter(run: Run, checkpoint: Path) -> None:
    from safetensors.torch import load_file

    check_weights(load_file(checkpoint / ADAPTER / "adapter_model.safetensors"))
    upload_files(checkpoint / ADAPTER, run.model.place / ADAPTER)


def _save(merged: Any, folder: Path, model: ModelConfig, card: dict[str, Any]) -> None:
    import torch

    from trace_ray.model.loading import model_tokenizer

    broken = [name for name, p in merged.named_parameters() if not p.numel() or not torch.isfinite(p).all()]
    if broken:
        raise RuntimeError(f"not exported: weights empty or not finite: {', '.join(broken[:3])}")
    merged.config.name_or_path = ""
    merged.generation_config = mended_generation(merged.generation_config)
    merged.save_pretrained(folder, safe_serialization=True)
    merged.generation_config.save_pretrained(folder)
    model_tokenizer(model).save_pretrained(folder)
    (folder / "README.md").write_text(model_card(card, base_licence(model.path)), encoding="utf-8")


def _refusal(run: Run, found: Likeness, *, adapted: bool) -> UserError:
    kept = (
        f"the adapter in {(run.model.place / ADAPTER).uri} is whole: load it on the base with PEFT; " if adapted else ""
    )
    remedy = f"the merged model is not the trained one and was not kept; {kept}"
    remedy += f"to export again from the checkpoint: trace-ray export --run {run.place.uri}"
    return UserError((run.model.place / MERGED).uri, found.said(), remedy)


def _probe_sequences(run: Run, max_length: int) -> list[list[int]]:
    """Returns token sequences to compare models on: the first pairs that were trained on, at most _PROBE_TOKENS tokens."""
    sequences: list[list[int]] = []
    names = [f"{name}_ids" for name in ("chosen", "rejected", "corrected")]
    for table in run.scored.tables(["prompt_ids", *names]):
        if len(sequences) == _PROBE_ROWS:
            break
        for row in table.slice(0, _PROBE_ROWS - len(sequences)).to_pylist():
            response: Sequence[int] = next((row[name] for name in names if row[name]), [])
            sequences.append([*row["prompt_ids"], *response][:max_length])
    kept: list[list[int]] = []
    room = _PROBE_TOKENS
    for sequence in sequences:
        kept += [sequence[:room]] if room > 0 and sequence else []
        room -= len(sequence)
    return kept


def trained_model(config: ModelConfig, checkpoint: Path, *, adapted: bool) -> Any:
    """Returns the model with what a checkpoint trained, in evaluation mode.

    Args:
        adapted: an adapter was trained, else all weights.
    Raises: RuntimeError where a weight is missing.
    """
    from trace_ray.model.loading import load_adapter, load_model

    model = load_model(config)
    if adapted:
        return load_adapter(model, checkpoint / ADAPTER, trainable=False).eval()
    from safetensors import safe_open

    with safe_open(checkpoint / WEIGHTS, "pt") as stored:  # weight by weight: a state dict would be the model once more
        names = set(stored.keys())
        absent = {name for name, _ in model.named_parameters()} - names
        if absent:
            raise RuntimeError(f"not exported: the checkpoint lacks {', '.join(sorted(absent)[:3])}")
        for name, value in model.state_dict().items():
            if name in names:
                value.copy_(stored.get_tensor(name))
    return model.eval()
