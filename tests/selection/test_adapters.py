"""Adapters of one base, measured and asked one after the other: each as if it were alone, by PEFT itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from trace_ray.chat.text import accepted
from trace_ray.config import Config, LoraSettings, ModelConfig, StorageConfig
from trace_ray.evaluate.models import measure_adapter
from trace_ray.model import kept
from trace_ray.model.engine import Adapter, Engine, EngineSettings, with_adapters
from trace_ray.model.kept import loads
from trace_ray.model.loading import load_chat_tokenizer, load_model, load_tokenizer, new_adapter
from trace_ray.storage.location import Location, locate
from trace_ray.synth.demo import MODELS

ROWS: list[dict[str, Any]] = [
    {"prompt": [{"role": "user", "content": f"Tell me of {thing}."}], "chosen": f"The {thing} is old and made of iron."}
    for thing in ("kettle", "gate", "lock", "knife", "bell")
]
POLICY = str(MODELS / "policy")


def saved(config: ModelConfig, lora: LoraSettings, folder: Path, seed: int) -> Location:
    """An adapter that does something, in a folder, as PEFT writes it."""
    adapted = new_adapter(load_model(config), lora, seed)
    torch.manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(folder)
    return locate(str(folder), StorageConfig())


def kl_of(config: Config, adapter: Location) -> float:
    """KL to the base a token of the chosen answers, by a loop over transformers' logits and PEFT's adapter, loaded afresh."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base, under = (AutoModelForCausalLM.from_pretrained(config.model.path, dtype=torch.float32) for _ in range(2))
    adapted = PeftModel.from_pretrained(under, adapter.path).eval()
    tokenizer, found = load_chat_tokenizer(config.model), []
    asked = tokenizer.pairs([row["prompt"] for row in ROWS], [{"chosen": row["chosen"]} for row in ROWS])
    for pair in accepted(asked):
        ids, start = [*pair.prompt_ids, *pair.response_ids["chosen"]], len(pair.prompt_ids)
        with torch.no_grad():
            ours, theirs = (model(torch.tensor([ids])).logits[0].double().log_softmax(-1) for model in (adapted, base))
        places = range(start - 1, len(ids) - 1)
        found += [float((theirs[at].exp() * (theirs[at] - ours[at])).sum()) for at in places]
    return sum(found) / len(found)


def test_an_adapter_measured_after_others_is_measured_as_if_it_were_alone(
    tmp_path: Path, adapted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, config = adapted
    places = {number: saved(config.model, config.lora, tmp_path / str(number), number) for number in (1, 2)}
    asked = {1: places[1], 2: places[2], 3: places[1]}
    before = loads()
    together = {number: measure_adapter(config, ROWS, place) for number, place in asked.items()}
    assert loads() - before == 1
    alone = {}
    for number, place in asked.items():
        monkeypatch.setattr(kept, "_KEPT", {})
        alone[number] = measure_adapter(config, ROWS, place)
    assert together == alone
    assert together[3] == together[1] != together[2]
    for number, place in places.items():
        assert together[number]["kl_to_base"] == pytest.approx(kl_of(config, place), rel=1e-4)
        assert together[number]["kl_to_base"] > 1e-3


def answers_of(model: Any, tokenizer: Any, prompts: list[list[int]], limit: int) -> list[str]:
    """What transformers' own generate makes of each prompt, alone and greedily."""
    found = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.no_grad():
            made = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False
            )
        found.append(str(tokenizer.decode(made[0, len(prompt) :], skip_special_tokens=True)))
    return found


@pytest.mark.slow
def test_an_engine_answers_with_an_adapter_as_pefts_own_generate_does(tmp_path: Path) -> None:
    """Adapter after adapter in one engine, and the model alone between them."""
    from peft import PeftModel

    model, lora, limit = ModelConfig(path=POLICY), LoraSettings(r=4, alpha=8), 24
    folders = [saved(model, lora, tmp_path / str(number), number).path for number in (1, 2)]
    tokenizer = load_tokenizer(POLICY)
    prompts = [
        tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False) for row in ROWS
    ]
    extra = tuple(with_adapters(lora.r).items())
    engine = Engine(EngineSettings(model=POLICY, max_model_len=128, kv_cache_gib=0.25, extra=extra))
    asked = [Adapter(1, folders[0]), None, Adapter(2, folders[1]), Adapter(1, folders[0])]
    answers = [engine.generate(prompts, limit, adapter) for adapter in asked]
    engine.close()
    expected = [answers_of(load_model(model), tokenizer, prompts, limit)]
    for folder in folders:
        alone = PeftModel.from_pretrained(load_model(model), folder).eval()
        expected.append(answers_of(alone, tokenizer, prompts, limit))
    base, first, second = expected
    assert answers == [first, base, second, first]
    assert base != first != second != base
