"""The synthetic world in one process, for ``impact_validity.py``: pairs, gold batch, training on weighted pairs, TPA.

The loss of a step is the hybrid objective of TRACE (``terms.category_loss`` on conflicts, token KL on RETAIN),
without Ray and DeepSpeed, so that a hundred trainings take minutes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from tests.impact.world import POLICY, triaged
from trace_ray.chat.text import accepted
from trace_ray.config import ImpactConfig, LoraSettings, ObjectiveConfig
from trace_ray.impact.gold import PAIR_COLUMNS, choose_gold, choose_retain, tokenize_gold
from trace_ray.impact.shard import Selection, score_shard
from trace_ray.model.head import OutputHead
from trace_ray.model.loading import load_chat_tokenizer, load_model, new_adapter
from trace_ray.model.log_probs import response_log_probs, target_log_probs
from trace_ray.model.packing import hidden_states, pack_each
from trace_ray.objective.losses import Response, dpo, sum_terms, token_kl
from trace_ray.objective.terms import term_loss
from trace_ray.pairs import CONFLICTS
from trace_ray.synth.oracle import violates
from trace_ray.synth.world import generate

Row = dict[str, Any]
LORA = LoraSettings(
    r=16,
    alpha=16,
    dropout=0.0,
    target_modules=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
)
OBJECTIVE = ObjectiveConfig(alpha_kl=10.0)
IMPACT = ImpactConfig(batch_tokens=8192, gold_size=64)
STEP_PAIRS = 16
LEARNING_RATE = 5.5e-4


@dataclass
class Scene:
    """One seed's model at theta_ref, pairs and gold batch."""

    seed: int
    model: Any
    tokenizer: Any
    table: pa.Table
    gold: list[Row]
    retain_sample: list[Row]
    start: dict[str, torch.Tensor]
    reference_margin: torch.Tensor | None = None

    def reset(self) -> None:
        """Puts the adapter back to theta_ref."""
        with torch.no_grad():
            for name, parameter in self.trainable().items():
                parameter.copy_(self.start[name])

    def trainable(self) -> dict[str, torch.Tensor]:
        return {name: p for name, p in self.model.named_parameters() if name in self.start}

    def freeze(self, frozen: bool) -> None:
        for parameter in self.trainable().values():
            parameter.requires_grad_(not frozen)


def make_scene(seed: int, pairs: int) -> Scene:
    model = new_adapter(load_model(POLICY), LORA, seed).eval()
    tokenizer = load_chat_tokenizer(POLICY)
    table = triaged(pairs, seed)
    parts = [table.select(PAIR_COLUMNS)]
    gold = tokenize_gold(choose_gold(parts, IMPACT.gold_size, seed, corrected=False), tokenizer).to_pylist()
    retain = tokenize_gold(choose_retain(parts, 32, seed), tokenizer).to_pylist()
    start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    return Scene(seed, model, tokenizer, table, gold, retain, start)


def score(scene: Scene, direction: Mapping[str, torch.Tensor]) -> list[Row]:
    """Returns every pair tokenised, with its reference log-probs and impact along the direction."""
    scene.reset()
    scene.freeze(True)
    selection = Selection(OBJECTIVE, 1.0, 0)
    rows = score_shard(scene.table, selection, scene.model, direction, scene.tokenizer, IMPACT).to_pylist()
    scene.freeze(False)
    return list(rows)


def gold_loss(scene: Scene) -> float:
    """Returns J at the model's present parameters: the mean of dpo over the gold batch, in float64."""
    sides = [
        torch.cat(
            [
                _logp(scene.model, [r["prompt_ids"] for r in part], [r[f"{s}_ids"] for r in part])
                for part in _parts(scene.gold)
            ]
        )
        for s in ("preferred", "dispreferred")
    ]
    margin = (sides[0] - sides[1]).double()
    if scene.reference_margin is None:
        scene.reference_margin = margin  # the first call is at theta_ref
    return float(dpo(margin - scene.reference_margin, OBJECTIVE.beta).mean())


def _parts(rows: Sequence[Row]) -> list[list[Row]]:
    return [list(rows[i : i + 32]) for i in range(0, len(rows), 32)]


@torch.no_grad()
def _logp(model: Any, prompts: Sequence[Sequence[int]], ids: Sequence[Sequence[int]]) -> torch.Tensor:
    return response_log_probs(model, pack_each(zip(prompts, ids, strict=True)))


def losses(scene: Scene, rows: Sequence[Row]) -> torch.Tensor:
    """Returns each row's loss at the model's present parameters, with a graph, shape (P,)."""
    flat = [(i, name) for i, row in enumerate(rows) for name in OBJECTIVE.responses(row["category"])]
    batch = pack_each((rows[i]["prompt_ids"], rows[i][f"{name}_ids"]) for i, name in flat)
    head = OutputHead(scene.model)
    logits_NV = head.logits(hidden_states(scene.model, batch))
    logp_B, length_B = batch.by_response(target_log_probs(logits_NV, batch.target_N)), batch.length_S
    place = {key: at for at, key in enumerate(flat)}
    kl_B = logp_B.new_zeros(len(flat))
    anchored = [at for (i, _), at in place.items() if rows[i]["category"] == "RETAIN"]
    if anchored:
        tokens_K = torch.isin(batch.response_N, torch.tensor(anchored))
        with torch.no_grad(), scene.model.disable_adapter():
            reference_NV = head.logits(hidden_states(scene.model, batch))
        scene.freeze(False)  # disable_adapter leaves the adapter as it finds best
        kl_N = torch.zeros_like(logits_NV[:, 0]).index_put(
            (tokens_K.nonzero()[:, 0],), token_kl(logits_NV[tokens_K], reference_NV[tokens_K])
        )
        kl_B = batch.by_response(kl_N) / length_B
    out = []
    for i, row in enumerate(rows):
        at = {name: place[i, name] for name in OBJECTIVE.responses(row["category"])}
        responses = {
            n: Response(
                tokens_B=length_B[k][None],
                logp_B=logp_B[k][None],
                log_ratio_B=(logp_B[k] - (row[f"{n}_ref_logp"] or 0.0))[None],  # an anchor's is null, and not read
                token_mean_B=kl_B[k][None],
            )
            for n, k in at.items()
        }
        out.append(sum_terms([term_loss(term, OBJECTIVE, responses)[0] for term in OBJECTIVE.terms(row["category"])]))
    return torch.stack(out)


def train(scene: Scene, rows: Sequence[Row], weights: Mapping[str, float], *, epochs: int = 1) -> None:
    """Trains from theta_ref with AdamW on conflicts x weight / conflicts + alpha_kl x mean RETAIN, a step 16 pairs.

    The order is a function of the seed alone: a left-out pair has weight 0 and its place stays.
    """
    scene.reset()
    conflict = [row["category"] in CONFLICTS for row in rows]
    per_step = STEP_PAIRS / len(rows)
    denominators = {True: sum(conflict) * per_step, False: (len(rows) - sum(conflict)) * per_step}
    optimizer = torch.optim.AdamW(scene.trainable().values(), lr=LEARNING_RATE, weight_decay=0.0)
    steps = epochs * -(-len(rows) // STEP_PAIRS)
    warm = max(1, steps // 10)
    for step in range(steps):
        epoch, within = divmod(step, -(-len(rows) // STEP_PAIRS))
        order = np.random.default_rng([scene.seed, epoch]).permutation(len(rows))
        at = order[within * STEP_PAIRS : (within + 1) * STEP_PAIRS]
        weight = [weights.get(rows[i]["pair_id"], 0.0) if conflict[i] else OBJECTIVE.alpha_kl for i in at]
        scale = torch.tensor([w / denominators[conflict[i]] for w, i in zip(weight, at, strict=True)])
        for group in optimizer.param_groups:
            done = max(0.0, (step - warm) / max(1, steps - warm))
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / warm) * 0.5 * (1 + np.cos(np.pi * done))
        loss = (losses(scene, [rows[i] for i in at]) * scale).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(scene.trainable().values(), 1.0)
        optimizer.step()


@torch.no_grad()
def tpa(scene: Scene, prompts: int = 128) -> float:
    """Returns the percentage of greedy answers to held-out prompts that comply, by the exact oracle."""
    rows = generate(seed=scene.seed, train_pairs=4, test_pairs=prompts).test
    tokenizer = scene.tokenizer
    ids = accepted(tokenizer.prompts([[{"role": "user", "content": row["prompt"]}] for row in rows]))
    longest = max(len(row) for row in ids)
    pad = tokenizer.tokenizer.pad_token_id
    padded = torch.tensor([[pad] * (longest - len(row)) + row for row in ids])
    out = scene.model.generate(
        input_ids=padded, attention_mask=(padded != pad).long(), max_new_tokens=48, do_sample=False
    )
    answers = tokenizer.tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)
    good = [not violates(row["prompt"], answer) for row, answer in zip(rows, answers, strict=True)]
    return 100 * float(np.mean(good))
