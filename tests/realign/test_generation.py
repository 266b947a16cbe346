"""A generation_config.json that contradicts itself: mended before anything starts, refused where nothing mends it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from tests.realign import handmade
from trace_ray.config import ModelConfig
from trace_ray.errors import UserError
from trace_ray.realign.generation import mended_generation
from trace_ray.realign.stage import check_model

CONTRADICTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama-2-chat": ({"temperature": 0.9, "top_p": 0.6}, {"do_sample": True, "temperature": 0.9, "top_p": 0.6}),
    "greedy by name": ({"do_sample": False, "top_p": 0.5}, {"do_sample": False}),
    "beams": ({"length_penalty": 0.5, "early_stopping": True}, {}),
    "padding": ({"pad_token_id": -1}, {}),
    "output flags": ({"output_scores": True}, {}),
    "one of two": ({"temperature": 0.9, "length_penalty": 0.5}, {"do_sample": True, "temperature": 0.9}),
}


def write(folder: Path, stored: dict[str, Any]) -> GenerationConfig:
    (folder / "generation_config.json").write_text(json.dumps(stored | {"eos_token_id": [2, 7]}))
    return GenerationConfig.from_pretrained(folder)


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_contradiction_is_left_out_and_all_else_is_kept(tmp_path: Path, name: str) -> None:
    stored, kept = CONTRADICTIONS[name]
    found = write(tmp_path, stored)
    with pytest.raises(ValueError, match="invalid"):
        found.save_pretrained(tmp_path)
    mended_generation(found).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    saved.pop("transformers_version")
    assert saved == kept | {"eos_token_id": [2, 7]}


def test_what_is_right_is_left_alone(tmp_path: Path) -> None:
    found = write(tmp_path, {"do_sample": True, "temperature": 0.6, "repetition_penalty": 1.1})
    assert mended_generation(found) is found


def test_before_a_worker_starts_the_user_hears_of_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = handmade.tiny_config(handmade.tiny_model(tmp_path))
    check_model(config.model)
    assert "generation_config" not in capfd.readouterr().err
    write(tmp_path, {"temperature": 0.9})
    check_model(config.model)
    assert "gets do_sample=True" in " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize("stored", [{"num_return_sequences": 3}, {"max_new_tokens": -5}, {"streamer": 1}])
def test_what_nothing_mends_is_refused_by_name(tmp_path: Path, stored: dict[str, Any]) -> None:
    config = handmade.tiny_config(handmade.tiny_model(tmp_path))
    (tmp_path / "generation_config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"model\.path: .*mend its generation_config\.json"):
        check_model(config.model)


def test_a_model_without_one_is_no_mistake(tmp_path: Path) -> None:
    from trace_ray.realign.generation import check_generation

    check_generation(ModelConfig(path=str(tmp_path)))
