"""The exported model: a ZeRO-3 adapter reloaded and merged gives equal logits; broken weights are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.realign import handmade
from trace_ray.errors import UserError
from trace_ray.model.kept import loads
from trace_ray.model.loading import load_adapter, load_model
from trace_ray.realign.card import card_facts
from trace_ray.realign.export import export_model, trained_model
from trace_ray.realign.export_stage import _export_task
from trace_ray.realign.stage import check_model
from trace_ray.realign.weights import check_weights


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained by two workers at ZeRO 3."""
    folder = tmp_path_factory.mktemp("export")
    config = handmade.tiny_config(handmade.tiny_model(folder / "model"), zero_stage=3)
    handmade.train(handmade.make_run(folder / "run", config), config, folder / "trained", 2, 6)
    return folder


def test_a_zero_3_adapter_reloaded_and_merged_gives_equal_logits(trained: Path) -> None:
    from transformers import AutoModelForCausalLM

    config = handmade.tiny_config(trained / "model", zero_stage=3)
    run = handmade.make_run(trained / "exported", config)
    checkpoint = trained / "trained" / "checkpoint"
    metrics = json.loads((checkpoint / "cursor.json").read_text())["metrics"]
    assert export_model(run, config, str(checkpoint), card_facts(run, config, metrics)).kl < 1e-8
    ids = torch.tensor([[5, 9, 3, 70, 22]])
    with torch.inference_mode():
        adapter = load_adapter(load_model(config.model), trained / "exported/model/adapter", trainable=False).eval()
        merged = AutoModelForCausalLM.from_pretrained(trained / "exported/model/merged").eval()
        torch.testing.assert_close(merged(ids).logits, adapter(ids).logits, rtol=1e-4, atol=1e-5)
        moved = (adapter(ids).logits - load_model(config.model)(ids).logits).abs().max()
    assert moved > 1e-2
    files = {path.name for path in (trained / "exported/model/merged").iterdir()}
    assert {"generation_config.json", "chat_template.jinja", "tokenizer.json", "README.md"} <= files
    card = (trained / "exported/model/merged/README.md").read_text()
    assert "policy: test version 1 (0000000000000000)" in card
    assert "scored pairs: " in card
    weights = load_file(checkpoint / "weights.safetensors")
    assert all(v.numel() for v in weights.values())


def test_the_task_tells_how_often_it_loaded_a_model(trained: Path) -> None:
    """Once to merge into, and what was written once more, whatever the process had loaded before."""
    from ray.train import Checkpoint

    config = handmade.tiny_config(trained / "model", zero_stage=3)
    run = handmade.make_run(trained / "told", config)
    checkpoint = Checkpoint.from_directory(str(trained / "trained" / "checkpoint"))
    assert loads() > 0
    found, _ = _export_task(run, config, checkpoint, card_facts(run, config, []))
    assert found["model_loads"] == 2


def test_broken_weights_are_not_exported(trained: Path, tmp_path: Path) -> None:
    import shutil

    config = handmade.tiny_config(trained / "model")
    shutil.copytree(trained / "trained" / "checkpoint", tmp_path / "broken")
    file = tmp_path / "broken" / "adapter" / "adapter_model.safetensors"
    state = load_file(file)
    name = next(n for n in state if "lora_A" in n)
    save_file(state | {name: torch.full_like(state[name], float("nan"))}, file)
    run = handmade.make_run(tmp_path / "run", config)
    with pytest.raises(RuntimeError, match=r"lora_A.*not finite"):
        export_model(run, config, str(tmp_path / "broken"), card_facts(run, config, []))
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize("value", [torch.empty(0), torch.tensor([float("nan")])])
def test_empty_or_non_finite_weights_are_not_saved(value: torch.Tensor) -> None:
    with pytest.raises(RuntimeError, match="not saved"):
        check_weights({"a": torch.ones(2), "b": value})
    with pytest.raises(RuntimeError, match="no trained weights"):
        check_weights({})


def test_a_missing_model_is_found_before_any_worker_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.path"):
        check_model(handmade.tiny_config(tmp_path / "absent").model)


def test_a_full_checkpoint_that_lacks_a_weight_is_refused(trained: Path, tmp_path: Path) -> None:
    config = handmade.tiny_config(trained / "model", tune="full", kl_reference="frozen_copy")
    state = {name: p.clone() for name, p in load_model(config.model).named_parameters()}
    save_file(state, tmp_path / "weights.safetensors")
    assert trained_model(config.model, tmp_path, adapted=False)
    state.pop("model.norm.weight")
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(RuntimeError, match=r"lacks model\.norm\.weight"):
        trained_model(config.model, tmp_path, adapted=False)
