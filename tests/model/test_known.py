"""What is refused of a model before its weights are read, each in one line that names model.path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers

from tests.model import families
from trace_ray.config import LoraSettings, ModelConfig
from trace_ray.errors import UserError
from trace_ray.model.known import bare_model, check_tokenizer
from trace_ray.model.loading import load_chat_tokenizer, load_model, new_adapter


def described(folder: Path) -> ModelConfig:
    return ModelConfig(path=str(folder))


def test_a_bare_model_has_every_module_and_no_weight(tmp_path: Path) -> None:
    model = families.make("gemma4 for images")
    bare = bare_model(described(families.saved(model, tmp_path)))
    assert [name for name, _ in bare.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert {p.device.type for p in bare.parameters()} == {"meta"}


def test_an_adapters_folder_is_no_model(tmp_path: Path) -> None:
    """transformers would load the base that it names, and stages 2 to 4 would score and train that."""
    base = families.saved(families.make("llama"), tmp_path / "base")
    folder = tmp_path / "adapter"
    new_adapter(load_model(described(base)), LoraSettings(), 0).save_pretrained(folder)
    (folder / "config.json").write_text((base / "config.json").read_text())
    for read in (bare_model, load_model):
        with pytest.raises(UserError, match=r"^model\.path: .*: a PEFT adapter .*merge_and_unload"):
            read(described(folder))


@pytest.mark.parametrize("kind", ["Qwen2_5_VLConfig", "Mistral3Config", "BertConfig"])
def test_a_kind_that_is_no_causal_language_model_is_refused(kind: str, tmp_path: Path) -> None:
    getattr(transformers, kind)().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    if kind == "BertConfig":
        assert type(bare_model(described(tmp_path))).__name__ == "BertLMHeadModel"  # transformers makes one of it
        return
    with pytest.raises(UserError, match=r"^model\.path: .*transformers makes no causal language model of it"):
        bare_model(described(tmp_path))


def test_quantized_weights_are_refused(tmp_path: Path) -> None:
    families.saved(families.make("llama"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="quantized"):
        bare_model(described(tmp_path))


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    families.saved(families.make("llama"), tmp_path)
    chat = load_chat_tokenizer(described(tmp_path))
    check_tokenizer(chat, str(tmp_path), families.VOCABULARY)
    with pytest.raises(
        UserError, match=r"writes token 864 \(.*\), its embedding has 860 rows: .*resize_token_embeddings"
    ):
        check_tokenizer(chat, str(tmp_path), 860)


def test_added_tokens_beyond_the_embedding_are_none_of_its_text(tmp_path: Path) -> None:
    """As of Gemma 3 in text: its tokenizer has one for images that the embedding lacks."""
    families.saved(families.make("llama"), tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_tokens(["<image_soft_token>"])
    assert len(tokenizer) == families.VOCABULARY + 1
    tokenizer.save_pretrained(tmp_path)
    check_tokenizer(load_chat_tokenizer(described(tmp_path)), str(tmp_path), families.VOCABULARY)
