"""Log-probs and KL against slow oracles in float64: every sequence alone, full logits, masks and shifts by hand."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.realign import handmade
from trace_ray.config import ObjectiveConfig
from trace_ray.model import vocabulary
from trace_ray.model.head import OutputHead
from trace_ray.model.loading import load_model, new_adapter
from trace_ray.objective.batch import micro_batch
from trace_ray.objective.losses import token_kl, top_k_kl
from trace_ray.objective.terms import pair_losses
from trace_ray.realign.layout import plan_step
from trace_ray.realign.policy_module import HybridPolicy
from trace_ray.realign.reference import top_k_table

OBJECTIVE = ObjectiveConfig()


def moved(model: Any, lora: Any) -> Any:
    adapted = new_adapter(model, lora, 0)
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return adapted


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def setting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """A moved adapter, the same in float64, and rows of all categories."""
    folder = handmade.tiny_model(tmp_path_factory.mktemp("policy") / "model", request.param)
    config = handmade.tiny_config(folder)
    rows = handmade.scored_rows(load_model(config.model), 9)
    return moved(load_model(config.model), config.lora), moved(load_model(config.model), config.lora).double(), rows


def grouped(rows: list[dict[str, Any]], objective: ObjectiveConfig, *, share: bool = False, **more: Any) -> Any:
    """The rows' micro-batch in many small groups; ``share``: pairs without a KL share their prompt."""
    names = [objective.sequences(row["category"]) for row in rows]
    lengths = [
        [len(row["prompt_ids"]) + len(row[f"{n}_ids"]) for n in some] for row, some in zip(rows, names, strict=True)
    ]
    kl = [[n in objective.compared(row["category"]) for n in some] for row, some in zip(rows, names, strict=True)]
    shared = [share and len(some) > 1 and not any(some_kl) for some, some_kl in zip(names, kl, strict=True)]
    for i in (i for i, is_shared in enumerate(shared) if is_shared):
        prompt = len(rows[i]["prompt_ids"])
        lengths[i], kl[i] = [sum(lengths[i]) - prompt * (len(lengths[i]) - 1)], [False]
    (step,) = plan_step(lengths, kl, shared, workers=1, budget=10**6, overhead=2)
    taken = [rows[i] for i in step.samples[0]]
    more["shared"] = [shared[i] for i in step.samples[0]]
    return micro_batch(taken, objective, step.groups[0], step.anchored, **more)


def slow_log_probs(model: Any, prompt: list[int], response: list[int]) -> torch.Tensor:
    """Log-probs over the vocabulary at each response token, from one sequence without padding."""
    logits = model(torch.tensor([prompt + response])).logits[0]
    log_probs: torch.Tensor = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return log_probs


@pytest.mark.parametrize("share", [False, True])
def test_log_probs_and_kl_equal_float64(setting: tuple[Any, Any, Any], share: bool) -> None:
    model, exact, rows = setting
    batch = grouped(rows, OBJECTIVE, share=share)
    assert len(batch.groups) > 2
    assert sum(group.batch.rows for group in batch.groups) == (3 + 3 + 3 if share else 6 + 6 + 3)
    logp_S, kl_S = HybridPolicy(model)(batch.groups)
    checked = 0
    for (i, name), place in batch.place.items():
        row = batch.rows[i]
        prompt, response = row["prompt_ids"], row[f"{name}_ids"]
        with torch.no_grad():
            policy = slow_log_probs(exact, prompt, response)
            with exact.disable_adapter():
                reference = slow_log_probs(exact, prompt, response)
        if row["category"] == "RETAIN":
            kl = (reference.exp() * (reference - policy)).sum(-1).mean()
            assert kl > 1e-3
            assert kl_S[0, place].item() == pytest.approx(kl.item(), rel=2e-4, abs=1e-6)
        else:
            total = policy.gather(-1, torch.tensor(response)[:, None]).sum()
            assert logp_S[place].item() == pytest.approx(total.item(), rel=1e-5)
        checked += 1
    assert checked == 3 * (2 + 2 + 1)


@pytest.mark.parametrize("share", [False, True])
def test_gradients_equal_those_of_plain_autograd(setting: tuple[Any, Any, Any], share: bool) -> None:
    model, exact, rows = setting
    batch = grouped(rows, OBJECTIVE, share=share)
    model.zero_grad()
    logp_S, kl_S = HybridPolicy(model)(batch.groups)
    torch.autograd.backward(logp_S.sum() + 3 * kl_S.sum())
    exact.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for i, name in batch.place:
        row = batch.rows[i]
        prompt, response = row["prompt_ids"], row[f"{name}_ids"]
        if row["category"] == "RETAIN":
            with torch.no_grad(), exact.disable_adapter():
                reference = slow_log_probs(exact, prompt, response)
            policy = slow_log_probs(exact, prompt, response)
            total = total + 3 * (reference.exp() * (reference - policy)).sum(-1).mean()
        else:
            policy = slow_log_probs(exact, prompt, response)
            total = total + policy.gather(-1, torch.tensor(response)[:, None]).sum()
    torch.autograd.backward(total)
    expected = {name: p.grad for name, p in exact.named_parameters() if p.requires_grad}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad.double(), expected[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("trained", [False, True])
def test_chunks_change_no_value_and_no_gradient(
    setting: tuple[Any, Any, Any], trained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_model(handmade.tiny_config(Path(setting[0].get_base_model().config.name_or_path)).model)
    base.get_output_embeddings().requires_grad_(trained)
    monkeypatch.setattr(vocabulary, "LOGIT_BYTES", 4 * 9 * handmade.VOCABULARY)
    head = OutputHead(base)
    assert head.frozen != trained
    torch.manual_seed(2)
    hidden = torch.randn(53, base.config.hidden_size, requires_grad=True)
    target = torch.randint(0, handmade.VOCABULARY, (53,))
    above = torch.randn(53)
    whole = head.logits(hidden).log_softmax(-1).gather(-1, target[:, None])[:, 0]
    (expected,) = torch.autograd.grad((whole * above).sum(), hidden, retain_graph=True)
    by_value = head.per_token(hidden, lambda z, at: z.log_softmax(-1).gather(-1, target[at, None])[:, 0])
    for value in (by_value, head.log_probs(hidden, target)):
        (gradient,) = torch.autograd.grad((value * above).sum(), hidden, retain_graph=True)
        torch.testing.assert_close(value, whole)
        torch.testing.assert_close(gradient, expected)
        if trained:
            weight = base.get_output_embeddings().weight
            made = [torch.autograd.grad((v * above).sum(), weight, retain_graph=True)[0] for v in (value, whole)]
            torch.testing.assert_close(*made)


@pytest.mark.parametrize("log_probs", [False, True])
def test_memory_does_not_grow_with_tokens_times_vocabulary(log_probs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the graph keeps of a frozen head is as large as the hidden states, whatever the vocabulary."""

    class Big(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(8, 5000, bias=False).requires_grad_(False)
            self.config = type("C", (), {"get_text_config": lambda self: self, "vocab_size": 5000})()
            self.config.final_logit_softcapping = None

        def get_output_embeddings(self) -> torch.nn.Module:
            return self.linear

    monkeypatch.setattr(vocabulary, "LOGIT_BYTES", 4 * 5000 * 20)
    kept: list[int] = []
    largest: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    def value(logits: torch.Tensor, at: slice) -> torch.Tensor:
        largest.append(logits.numel())
        return logits.logsumexp(-1)

    hidden = torch.randn(400, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        head = OutputHead(Big())
        if log_probs:
            head.log_probs(hidden, torch.zeros(400, dtype=torch.long)).sum()
            assert kept == [400 * 8]
        else:
            head.per_token(hidden, value).sum()
            assert max(largest) == 20 * 5000
    assert kept[-1] == 400 * 8


def test_top_k_of_all_tokens_is_exact_and_fewer_fall_short() -> None:
    torch.manual_seed(0)
    policy, reference = 2 * torch.randn(6, 40, dtype=torch.float64), 2 * torch.randn(6, 40, dtype=torch.float64)
    exact = token_kl(policy, reference)
    found = []
    for k in (1, 4, 16, 39):
        log_probs, ids = reference.log_softmax(-1).topk(k)
        found.append(top_k_kl(policy, ids, log_probs))
    assert torch.allclose(found[-1], exact, rtol=1e-6)
    for fewer, more in itertools.pairwise(found):
        assert (fewer <= more + 1e-9).all()
        assert (fewer >= 0).all()


def test_stored_distributions_give_the_kl_of_a_forward(setting: tuple[Any, Any, Any]) -> None:
    model, _, rows = setting
    objective = ObjectiveConfig()
    retained = [row for row in rows if row["category"] == "RETAIN"]
    with torch.no_grad(), model.disable_adapter():
        table = top_k_table(model.get_base_model(), retained, "chosen", handmade.VOCABULARY - 1, 50)
    stored = {row["pair_id"]: row for row in table.to_pylist()}
    for row in retained:
        k = stored[row["pair_id"]]["k"]
        for name in ("top_k_ids", "top_k_log_probs"):
            row[name] = torch.tensor(stored[row["pair_id"]][name]).view(-1, k).numpy()
    policy = HybridPolicy(model)
    _, forward = policy(grouped(retained, objective).groups)
    _, kept = policy(grouped(retained, objective, forward_reference=False).groups)
    assert (forward > 1e-3).all()
    torch.testing.assert_close(kept, forward, rtol=1e-3, atol=1e-5)


def test_no_gradient_leaks_from_one_category_into_another_weight(setting: tuple[Any, Any, Any]) -> None:
    """With two categories' losses left out, the gradient is that of the third alone, and of none if all are."""
    model, _, rows = setting
    policy = HybridPolicy(model)

    def gradients(kept: list[dict[str, Any]], only: str) -> list[torch.Tensor]:
        batch = grouped(kept, OBJECTIVE)
        logp_S, kl_S = policy(batch.groups)
        losses = pair_losses(batch, logp_S, kl_S, OBJECTIVE)
        mask = torch.tensor([float(c == only) for c in losses.category])
        trained = [p for p in model.parameters() if p.requires_grad]
        return list(torch.autograd.grad((losses.loss_P * mask).sum() + 0.0 * losses.loss_P.sum(), trained))

    for only in handmade.CATEGORIES:
        alone = gradients([row for row in rows if row["category"] == only], only)
        among = gradients(rows, only)
        assert max(g.abs().max().item() for g in alone) > 1e-4
        for a, b in zip(alone, among, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
