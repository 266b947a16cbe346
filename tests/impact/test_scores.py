"""eps scores against the slow obvious oracle: one autograd call a response."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.impact import tiny
from trace_ray.config import ModelConfig
from trace_ray.errors import UserError
from trace_ray.impact.scores import Scorer
from trace_ray.model.loading import load_model
from trace_ray.model.log_probs import response_log_probs
from trace_ray.model.modes import checkpoint_layers
from trace_ray.model.packing import Packed, pack, pack_each

CASES = [Packed(prompt, (response,)) for prompt, response in tiny.SEQUENCES]
EXACT = 1e-4


def model_of(family: str, parameters: str) -> Any:
    base = tiny.FAMILIES[family]()
    return base if parameters == "full" else tiny.adapted(base, at_init=parameters == "lora, B = 0")


@pytest.mark.parametrize("parameters", ["lora, B = 0", "lora, away", "full"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_scores_equal_per_sample_autograd(family: str, parameters: str) -> None:
    model = model_of(family, parameters)
    direction = tiny.random_direction(model)
    logp = [tiny.log_prob(model, prompt, response) for prompt, response in tiny.SEQUENCES]
    expected = [tiny.derivative(model, value, direction) for value in logp]
    model.requires_grad_(False)
    scored = Scorer(model, direction).score(pack(CASES))
    assert scored.logp_S.tolist() == pytest.approx([float(value) for value in logp], rel=1e-5)
    assert tiny.relative_error(scored.score_B.tolist(), expected) <= EXACT


@pytest.mark.parametrize("name", ["embed_tokens", "layernorm", "model.norm", "q_proj.bias", "lm_head"])
def test_each_kind_of_parameter_has_its_share(name: str) -> None:
    """A direction in one kind of parameter alone, so that no other hides what is missing."""
    model = tiny.qwen2()
    direction = {n: v if name in n else torch.zeros_like(v) for n, v in tiny.random_direction(model).items()}
    prompt, response = tiny.SEQUENCES[1]
    expected = tiny.derivative(model, tiny.log_prob(model, prompt, response), direction)
    assert abs(expected) > 1e-3
    model.requires_grad_(False)
    scored = Scorer(model, direction).score(pack([CASES[1]]))
    assert scored.score_B.item() == pytest.approx(expected, rel=EXACT)


def test_scoring_every_weight_takes_no_further_copy_of_the_large_ones() -> None:
    """Beside model and direction, zeros are held for norms alone: of 8B parameters another copy is 16 GB of a card."""
    model = tiny.qwen2()
    direction = tiny.random_direction(model)
    model.requires_grad_(False)
    norms = sum(p.nbytes for name, p in model.named_parameters() if "norm" in name)
    before = _storages()
    scorer = Scorer(model, direction)
    assert scorer.taps
    assert sum(nbytes for place, nbytes in _storages().items() if place not in before) <= norms


def _storages() -> dict[int, int]:
    """{address: bytes} of every tensor that is held."""
    return {held.data_ptr(): held.nbytes for held in gc.get_objects() if isinstance(held, torch.Tensor)}


@pytest.mark.parametrize("parameters", ["lora, B = 0", "lora, away", "full"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_shared_prompt_scores_the_pair_as_its_responses_alone(family: str, parameters: str) -> None:
    model = model_of(family, parameters)
    direction = tiny.random_direction(model)
    model.requires_grad_(False)
    scorer = Scorer(model, direction)
    prompts, responses = zip(*tiny.SEQUENCES, strict=True)
    alone = scorer.score(pack([Packed(p, (y,)) for p in prompts for y in (responses[0], responses[1])]))
    coefficients = torch.tensor([0.7, -1.9] * len(prompts))
    expected = (alone.score_B * coefficients).view(-1, 2).sum(1)
    shared = scorer.score(pack([Packed(p, responses[:2]) for p in prompts]), coefficients)
    assert shared.logp_S.tolist() == pytest.approx(alone.logp_S.tolist(), rel=1e-5)
    assert tiny.relative_error(shared.score_B.tolist(), expected.tolist()) <= EXACT


@pytest.mark.parametrize("at_init", [True, False], ids=["B = 0", "away from it"])
def test_gradient_norms_equal_per_sample_autograd(at_init: bool) -> None:
    model = tiny.adapted(tiny.llama(), at_init=at_init)
    direction = tiny.random_direction(model)
    rows = [Packed(p, ([9, 2, 4], y)) for p, y in tiny.SEQUENCES]
    pairs = [0.4 * tiny.log_prob(model, r.prompt_ids, r.response_ids[0]) for r in rows]
    pairs = [v - 1.3 * tiny.log_prob(model, r.prompt_ids, r.response_ids[1]) for v, r in zip(pairs, rows, strict=True)]
    expected = [tiny.gradient_norm(model, value) for value in pairs]
    model.requires_grad_(False)
    scored = Scorer(model, direction).score(pack(rows), torch.tensor([0.4, -1.3] * len(rows)), norms=True)
    assert scored.norm_B is not None
    assert tiny.relative_error(scored.norm_B.tolist(), expected) <= EXACT


def test_gradient_norms_of_every_weight_are_refused() -> None:
    model = tiny.llama()
    direction = tiny.random_direction(model)
    with pytest.raises(UserError, match="lora only"):
        Scorer(model.requires_grad_(False), direction).score(pack(CASES), norms=True)


@pytest.mark.parametrize("parameters", ["lora, away", "full"])
def test_batch_composition_and_padding_do_not_change_a_score(parameters: str) -> None:
    model = model_of("llama", parameters)
    direction = tiny.random_direction(model)
    model.requires_grad_(False)
    scorer = Scorer(model, direction)
    together = scorer.score(pack(CASES)).score_B
    alone = [scorer.score(pack([case])).score_B.item() for case in CASES]
    backwards = scorer.score(pack(CASES[::-1])).score_B.flip(0)
    assert tiny.relative_error(together.tolist(), alone) <= EXACT
    assert tiny.relative_error(together.tolist(), backwards.tolist()) <= EXACT


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("parameters", ["lora, away", "full"])
@pytest.mark.parametrize("how", [True, "selective"])
def test_checkpointed_layers_and_fused_attention_give_the_same_scores(
    attention: str, parameters: str, how: bool | str
) -> None:
    model = model_of("llama", parameters)
    direction = tiny.random_direction(model)
    model.requires_grad_(False)
    expected = Scorer(model, direction).score(pack(CASES))
    model.set_attn_implementation(attention)
    checkpoint_layers(model, how)
    found = Scorer(model, direction).score(pack(CASES))
    assert tiny.relative_error(found.score_B.tolist(), expected.score_B.tolist()) <= EXACT
    assert not any(module.training for module in model.modules() if "Attention" in type(module).__name__)


def test_bf16_weights_keep_the_score_in_float32() -> None:
    """The same bf16 weights run in float32 are the truth; the score's error stays that of bf16 activations."""
    model = tiny.llama().to(torch.bfloat16)
    direction = {n: v.float() for n, v in tiny.random_direction(model).items()}
    model.requires_grad_(False)
    rough = Scorer(model, direction).score(pack(CASES))
    exact = Scorer(model.float(), direction).score(pack(CASES))
    assert rough.score_B.dtype == torch.float32
    scale = exact.score_B.abs().mean().item()
    assert rough.score_B.tolist() == pytest.approx(exact.score_B.tolist(), abs=0.06 * scale)


def test_modules_go_back_to_their_own_forward() -> None:
    model = tiny.qwen2()
    direction = tiny.random_direction(model)
    model.requires_grad_(False)
    Scorer(model, direction).score(pack(CASES))
    assert not any("forward" in vars(module) for module in model.modules())


def test_an_unknown_module_is_refused_by_name() -> None:
    model = tiny.llama()
    model.model.layers[0].self_attn.register_parameter("sink", torch.nn.Parameter(torch.ones(4)))
    with pytest.raises(UserError, match=r"layers\.0\.self_attn"):
        Scorer(model, tiny.random_direction(model))


def test_log_probs_leave_the_prompt_out() -> None:
    model = tiny.llama()
    whole = response_log_probs(model, pack_each([([1], [4, 9, 3])]))
    later = response_log_probs(model, pack_each([([1, 4], [9, 3])]))
    first = model(torch.tensor([[1]])).logits[0, 0].log_softmax(-1)[4]
    assert (whole - later).item() == pytest.approx(first.item(), rel=1e-4)


def test_an_attention_that_drops_the_softcap_is_refused(tmp_path: Path) -> None:
    tiny.gemma2().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="use eager"):
        load_model(ModelConfig(path=str(tmp_path), attention="sdpa"))
    load_model(ModelConfig(path=str(tmp_path), attention="eager"))


def test_a_direction_that_no_module_reads_is_refused() -> None:
    """PEFT adapts an embedding too; its share of the score would be left out."""
    model = get_peft_model(tiny.llama(), LoraConfig(target_modules=["q_proj", "embed_tokens"], task_type="CAUSAL_LM"))
    direction = tiny.random_direction(model)
    model.requires_grad_(False)
    with pytest.raises(UserError, match=r"^lora\.target_modules: .*embed_tokens\.lora_embedding_A.* \(2 in all\): "):
        Scorer(model, direction)
    whole = tiny.llama().requires_grad_(False)
    strange = {name: torch.ones_like(p) for name, p in whole.named_parameters()} | {"no.such.weight": torch.ones(2)}
    with pytest.raises(UserError, match=r"^impact\.parameters: no\.such\.weight"):
        Scorer(whole, strange)


def test_hooks_that_stood_on_a_forward_stay() -> None:
    """As accelerate sets them: on the instance."""
    model = tiny.qwen2()
    direction = tiny.random_direction(model)
    model.requires_grad_(False)
    layer, seen = model.model.layers[0].mlp.up_proj, []
    own = layer.forward

    def hooked(x: torch.Tensor) -> Any:
        seen.append(1)
        return own(x)

    layer.forward = hooked
    Scorer(model, direction).score(pack(CASES))
    assert layer.forward is hooked
    assert seen
