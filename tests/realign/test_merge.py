"""The merged model: one rounding in bfloat16, judged against what rounding explains; what a refusal leaves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from tests.realign import handmade
from trace_ray.config import Config
from trace_ray.errors import UserError
from trace_ray.model.loading import load_adapter, load_model, new_adapter
from trace_ray.realign.export import export_model
from trace_ray.realign.likeness import in_float32, likeness, probe_log_probs

FACTS = {"base model": "b", "policy": "p", "method": "trace"}


def in_bfloat16(folder: Path, **realign: Any) -> Config:
    config = handmade.tiny_config(handmade.tiny_model(folder / "model"), **realign)
    return replace(config, model=replace(config.model, dtype="bfloat16"))


def adapter(config: Config, folder: Path, target: str = "") -> Path:
    """Writes a checkpoint's adapter with weights that move the model by more than rounding does.

    Args:
        target: a module that ``new_adapter`` would refuse.
    """
    base = load_model(config.model)
    model = get_peft_model(base, LoraConfig(target_modules=[target])) if target else new_adapter(base, config.lora, 0)
    for name, parameter in model.named_parameters():
        if "lora_" in name and "lora_A" not in name:
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder / "adapter")
    return folder


def test_bfloat16_weights_are_merged_in_float32_and_rounded_once(tmp_path: Path) -> None:
    config = in_bfloat16(tmp_path)
    run = handmade.make_run(tmp_path / "run", config)
    checkpoint = adapter(config, tmp_path / "checkpoint")
    found = export_model(run, config, str(checkpoint), FACTS)
    assert found.rounding_kl > 0
    assert found.kl < 4 * found.rounding_kl
    merged = load_file(tmp_path / "run/model/merged/model.safetensors")
    exact = load_adapter(load_model(config.model), checkpoint / "adapter", trainable=False).float().merge_and_unload()
    for name, weight in exact.state_dict().items():
        if name in merged:
            assert merged[name].dtype == torch.bfloat16
            torch.testing.assert_close(merged[name], weight.bfloat16(), rtol=0, atol=0)


def test_float32_is_held_a_layer_at_a_time(tmp_path: Path) -> None:
    """The log-probs of the whole model in float32; no weight is another afterwards. PEFT has the adapter in float32 anyway."""
    config = in_bfloat16(tmp_path)
    place = adapter(config, tmp_path / "checkpoint") / "adapter"
    model, wide = (load_adapter(load_model(config.model), place, trainable=False).eval() for _ in range(2))
    probe, held = [[5, 9, 3, 70, 22], [7, 1]], list[int]()
    before = {name: p.clone() for name, p in model.named_parameters()}
    layers = model.get_base_model().model.layers

    def count(*_: object) -> None:
        held.append(of_base(p for p in model.named_parameters() if p[1].dtype == torch.float32))

    for layer in layers:
        layer.mlp.register_forward_hook(count)
    with in_float32(model):
        found = probe_log_probs(model, probe)
    torch.testing.assert_close(found, probe_log_probs(wide.float(), probe), rtol=0, atol=0)
    assert len(layers) > 1
    assert held == [of_base(layer.named_parameters()) for layer in layers] * len(probe)
    assert all(torch.equal(p, before[name]) and p.dtype == before[name].dtype for name, p in model.named_parameters())


def of_base(parameters: Iterable[tuple[str, torch.Tensor]]) -> int:
    return sum(parameter.numel() for name, parameter in parameters if "lora_" not in name)


def test_full_fine_tuning_in_bfloat16_is_exported(tmp_path: Path) -> None:
    full: dict[str, Any] = {"tune": "full", "kl_reference": "frozen_copy", "learning_rate": 1e-3}
    config = in_bfloat16(tmp_path, **full)
    run = handmade.make_run(tmp_path / "run", config)
    trained = handmade.train(run, config, tmp_path / "trained", 1, 3)
    found = export_model(run, config, str(trained["folder"]), FACTS)
    assert found.kl == pytest.approx(found.rounding_kl)
    merged = load_file(tmp_path / "run/model/merged/model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    torch.testing.assert_close(merged[name], trained["weights"][name], rtol=0, atol=0)
    assert not (tmp_path / "run/model/adapter").exists()


def test_a_merged_model_that_is_another_is_refused_and_the_adapter_stays(tmp_path: Path) -> None:
    """The embedding is the head too: merged into both, an adapter that was trained on one of them makes another model."""
    config = in_bfloat16(tmp_path)
    run = handmade.make_run(tmp_path / "run", config)
    checkpoint = adapter(config, tmp_path / "checkpoint", "embed_tokens")
    with pytest.raises(UserError, match=r"trace-ray export --run") as caught:
        export_model(run, config, str(checkpoint), FACTS)
    assert "first choice" in str(caught.value)
    assert (tmp_path / "run/model/adapter/adapter_model.safetensors").exists()
    assert not (tmp_path / "run/model/merged").exists()


@pytest.fixture
def exact() -> torch.Tensor:
    torch.manual_seed(0)
    return (3 * torch.randn(400, 500)).log_softmax(-1)


def moved(exact: torch.Tensor, by: float, seed: int) -> torch.Tensor:
    """Log-probs with noise of this size, as rounding makes."""
    noise = torch.randn(exact.shape, generator=torch.Generator().manual_seed(seed))
    return (exact + by * noise).log_softmax(-1)


@pytest.mark.parametrize("size", [1e-3, 0.05])
def test_rounding_is_no_difference_whatever_its_size(exact: torch.Tensor, size: float) -> None:
    found = likeness(exact, moved(exact, size, 1), moved(exact, 1.5 * size, 2))
    assert found.alike
    assert found.same_choice > 0.9


def test_what_rounding_does_not_explain_is_one(exact: torch.Tensor) -> None:
    rounded = moved(exact, 1e-2, 1)
    assert not likeness(exact, rounded, moved(exact, 0.05, 2)).alike  # by its KL
    swapped = exact.clone()
    swapped[:40] = swapped[:40].roll(1, dims=-1)  # a tenth of the tokens choose another word
    assert not likeness(exact, exact, swapped).alike
    assert not likeness(exact, rounded, torch.full_like(exact, float("nan"))).alike
    assert likeness(exact, exact, exact).alike


def test_a_few_tokens_with_another_choice_are_seen_though_the_kl_is_small(exact: torch.Tensor) -> None:
    rounded = moved(exact, 0.2, 1)
    merged = rounded.clone()
    merged[:8].scatter_(1, exact[:8].argmin(-1, keepdim=True), exact[:8].amax(-1, keepdim=True) + 1)
    found = likeness(exact, rounded, merged.log_softmax(-1))
    assert found.kl < found.kl_limit
    assert found.unexplained == pytest.approx(0.02)
    assert not found.alike
