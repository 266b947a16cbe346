"""dpo, ipo, rdpo and dpo with sft against TRL's DPOTrainer: one model, one batch, a moved adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.realign import handmade
from trace_ray.config import ObjectiveConfig, TermConfig
from trace_ray.model.loading import load_model
from trace_ray.model.log_probs import response_log_probs
from trace_ray.model.packing import pack_each
from trace_ray.objective.batch import micro_batch
from trace_ray.objective.reduction import Denominators, reduce_losses
from trace_ray.objective.terms import pair_losses
from trace_ray.realign.policy_module import HybridPolicy

BETA, NOISE, TAU = 0.4, 0.15, 0.7


def trl_trainer(folder: Path, rows: list[dict[str, Any]], lora: Any, out: Path, **settings: Any) -> Any:
    """Returns TRL's trainer on the base model and an adapter that it makes; its reference is that adapter off."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    class Tokenized(DPOTrainer):  # type: ignore[misc]
        """TRL's trainer on tokens made elsewhere: rendering is not compared here."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    columns = ("prompt_ids", "chosen_ids", "rejected_ids")
    arguments = DPOConfig(
        output_dir=str(out),
        per_device_train_batch_size=len(rows),
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to=[],
        train_sampling_strategy="sequential",
        **settings,
    )
    targets = list(lora.target_modules)
    return Tokenized(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        peft_config=LoraConfig(r=lora.r, lora_alpha=lora.alpha, target_modules=targets, task_type="CAUSAL_LM"),
        args=arguments,
        processing_class=AutoTokenizer.from_pretrained(folder),
        train_dataset=Dataset.from_list([{name: row[name] for name in columns} for row in rows]),
    )


@pytest.mark.parametrize(
    ("loss", "ours", "theirs"),
    [
        ("dpo", {"beta": BETA}, {"loss_type": "sigmoid", "beta": BETA}),
        ("ipo", {"tau": TAU}, {"loss_type": "ipo", "beta": TAU}),
        ("dpo", {"beta": BETA, "length_norm": True}, {"loss_type": "sigmoid_norm", "beta": BETA}),
        (
            "rdpo",
            {"beta": BETA, "label_noise": NOISE},
            {"loss_type": "robust", "beta": BETA, "label_smoothing": NOISE},
        ),
        (
            "dpo and sft",
            {"beta": BETA},
            {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.6], "beta": BETA},
        ),
    ],
)
def test_loss_and_gradient_equal_trl(tmp_path: Path, loss: str, ours: Any, theirs: Any) -> None:
    config = handmade.tiny_config(handmade.tiny_model(tmp_path / "model"))
    rows = handmade.scored_rows(load_model(config.model), 6)
    rows = [row | {"category": "RETAIN", "weight": 1.0} for row in rows]
    if loss == "dpo and sft":  # TRL's mean is over all tokens of a batch: alike where the preferred sides are as long
        rows = [row | {"chosen_ids": (row["chosen_ids"] * 5)[:5]} for row in rows]
        rows = [row | {"chosen_ref_logp": reference(load_model(config.model), row)} for row in rows]
    trainer = trl_trainer(tmp_path / "model", rows, config.lora, tmp_path / "out", **theirs)
    model = trainer.model
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    expected = trainer.compute_loss(model, next(iter(trainer.get_train_dataloader())))
    their_gradients = gradients(model, expected)

    also = [TermConfig(loss="sft", prefer="chosen", parameters={"weight": 0.6})] if " and " in loss else []
    term = TermConfig(loss=loss.partition(" ")[0], prefer="chosen", suppress=("rejected",), also=also)
    objective = ObjectiveConfig(RETAIN=term, retain="pair", weights="uniform", **ours)
    batch = micro_batch(rows, objective, groups=[[0, 2, 4], [1, 3, 5, 6], [7, 8, 9, 10, 11]], anchored=[False] * 3)
    logp_S, kl_S = HybridPolicy(model)(batch.groups)
    losses = pair_losses(batch, logp_S, kl_S, objective)
    mine = reduce_losses(losses, Denominators(len(rows), 0, 0.1), objective.weighed)
    assert abs(losses.loss_P[0].item() - losses.loss_P[1].item()) > 1e-3
    assert mine.item() == pytest.approx(expected.item(), abs=1e-4)
    for name, gradient in gradients(model, mine).items():
        torch.testing.assert_close(gradient, their_gradients[name], rtol=1e-3, atol=1e-5)


def reference(model: Any, row: dict[str, Any]) -> float:
    with torch.inference_mode():
        return response_log_probs(model, pack_each([(row["prompt_ids"], row["chosen_ids"])])).item()


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns the adapter's gradients by name."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))
