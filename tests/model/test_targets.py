"""Where an adapter goes: every word is met, or refused with what exists."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.model import families
from trace_ray.config import LoraSettings
from trace_ray.config.load import read_config
from trace_ray.errors import UserError
from trace_ray.model.loading import new_adapter
from trace_ray.model.targets import decoder_linears, target_linears


def adapted(model: Any) -> set[str]:
    return {
        name.partition(".lora_A")[0].removeprefix("base_model.model.")
        for name, _ in model.named_parameters()
        if "lora_A" in name
    }


@pytest.mark.parametrize(
    "family", ["llama", "gpt2", "gemma3 for images", "bamba", "falcon_h1", "deepseek v3", "qwen3 moe", "falcon"]
)
def test_all_linear_is_every_linear_of_the_decoder(family: str) -> None:
    model = families.make(family)
    wanted = decoder_linears(model)
    head = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
    assert wanted
    assert head not in wanted
    assert not any("vision" in name or "expert" in name for name in wanted)
    assert adapted(new_adapter(model, LoraSettings(target_modules=("all-linear",)), 0)) == wanted


def test_llamas_linears_are_all_seven() -> None:
    names = {name.rpartition(".")[2] for name in decoder_linears(families.make("llama"))}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_words_stay_as_they_are_and_leave_other_parts_alone() -> None:
    assert target_linears(families.make("llama"), ("q_proj", "v_proj")) == ["q_proj", "v_proj"]
    images = families.make("gemma3 for images")
    found = adapted(new_adapter(images, LoraSettings(target_modules=("q_proj",)), 0))
    assert len(found) == 2
    assert all(name.startswith("model.language_model.") for name in found)


@pytest.mark.parametrize(
    ("family", "targets", "said"),
    [
        ("llama", ("q_proj", "vproj"), r"^lora\.target_modules: vproj: .*did you mean 'v_proj'\?.* linears are down_proj, "),
        ("llama", ("qproj",), "did you mean 'q_proj'"),
        ("llama", ("all_linear",), "did you mean 'all-linear'"),
        ("llama", ("all-linear", "q_proj"), "name it alone"),
        ("llama", ("lm_head",), r"lm_head: an adapter there is not scored.*realign\.tune=full"),
        ("llama", ("q_proj", "embed_tokens"), "embed_tokens: an adapter there is not scored"),
        ("llama", ("q_proj", "input_layernorm"), r"LlamaRMSNorm\) is no linear"),
        ("gpt2", ("q_proj",), "linears are c_attn, c_fc, c_proj"),
        ("qwen3 moe", ("q_proj", "gate_proj", "up_proj", "down_proj"), "gate_proj: PEFT adapts fused expert weights"),
        ("qwen3 moe", ("experts",), r"experts \(Qwen3MoeExperts\) is no linear"),
        ("deepseek v3", ("gate_proj", "up_proj", "down_proj"), "PEFT adapts fused expert weights"),
        ("falcon_h1", ("out_proj",), "is no linear|no module"),
    ],
)  # fmt: skip
def test_what_cannot_be_adapted_is_refused_with_what_can(family: str, targets: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        new_adapter(families.make(family), LoraSettings(target_modules=targets), 0)


def test_names_are_looked_up_without_weights() -> None:
    import transformers

    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(families.FAMILIES["qwen3 moe"](transformers))
    assert {name.rpartition(".")[2] for name in target_linears(model, ("all-linear",))} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
    }


@pytest.mark.parametrize("written", ["all-linear", "[all-linear]"])
def test_both_spellings_load(written: str) -> None:
    config = read_config([], [f"lora.target_modules={written}"])
    assert config.lora.target_modules == ("all-linear",)
