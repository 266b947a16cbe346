"""The ways to score a pair that ``tests/bench/impact.py`` sets side by side: each a function of a scene and a count.

Each returns the impacts of the scene's first ``count`` pairs, or None where it measures time alone.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
PADDED = 256


class Scene:
    """Model, adapter, direction and triaged conflicts."""

    def __init__(self, model_path: str, pairs: int, threads: int) -> None:
        import pyarrow as pa
        import torch

        from trace_ray.chat.text import accepted
        from trace_ray.config import ImpactConfig, LoraSettings, ModelConfig, ObjectiveConfig
        from trace_ray.impact.shard import Selection
        from trace_ray.model.loading import load_chat_tokenizer, load_model, new_adapter
        from trace_ray.pairs import TRIAGED_SCHEMA

        torch.set_num_threads(threads)
        config = ModelConfig(path=model_path, max_length=PADDED)
        targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        lora = LoraSettings(r=16, alpha=32, dropout=0.0, target_modules=targets)
        self.model = new_adapter(load_model(config), lora, 0).eval()
        self.tokenizer = load_chat_tokenizer(config)
        self.table = pa.Table.from_pylist(conflicts(pairs), schema=TRIAGED_SCHEMA)
        self.selection = Selection(ObjectiveConfig(), 1.0, 0)
        self.impact = ImpactConfig(batch_tokens=2048)
        generator = torch.Generator().manual_seed(1)
        named = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        self.direction = {
            n: torch.randn(p.shape, generator=generator) * 0.01 if "lora_B" in n else torch.zeros_like(p)
            for n, p in named
        }
        self.rows = self.selection.rows(self.table)
        names = [self.selection.objective.responses(row["category"]) for row in self.rows]
        texts = [{n: row[n] for n in some} for row, some in zip(self.rows, names, strict=True)]
        self.pairs = accepted(self.tokenizer.pairs([row["prompt"] for row in self.rows], texts))

    def trainable(self) -> dict[str, Any]:
        return {n: p for n, p in self.model.named_parameters() if n in self.direction}

    def impact_of(self, s: Sequence[dict[str, float]]) -> list[float]:
        """Pairs' impacts from s(y), for the procedures that give these."""
        from trace_ray.objective.slopes import pair_slopes

        rows = [
            row | {f"{n}_ids": ids for n, ids in pair.response_ids.items()}
            for row, pair in zip(self.rows, self.pairs, strict=True)
        ][: len(s)]
        slopes = pair_slopes(rows, self.selection.objective)
        return [sum(c * some[n] for n, c in slope.items()) for slope, some in zip(slopes, s, strict=True)]


def conflicts(count: int) -> list[dict[str, Any]]:
    """The first conflicts of PKU under "at most 50 words"."""
    rows: list[dict[str, Any]] = []
    with gzip.open(SHARED / "pku_saferlhf_2400.jsonl.gz", "rt") as lines:
        for number, line in enumerate(lines):
            row = json.loads(line)
            long = {side: len(row[side].split()) > 50 for side in ("chosen", "rejected")}
            if not long["chosen"]:
                continue
            category = "PUNISH" if long["rejected"] else "INVERT"
            judged = {"p_violates_chosen": 1.0, "p_violates_rejected": float(long["rejected"]), "category": category}
            known = {"row": number, "pair_id": f"{number:08d}", "source": "pku", "split": "train"}
            prompt = [{"role": "user", "content": row["prompt"]}]
            texts = {side: row[side] for side in ("chosen", "rejected")}
            rows.append({**known, **judged, **texts, "prompt": prompt, "corrected": None, "judge_error": None})
            if len(rows) == count:
                break
    return rows


def ours(scene: Scene, count: int) -> Any:
    from trace_ray.impact.shard import score_shard

    scene.model.requires_grad_(False)
    table = scene.table.slice(0, count)
    rows = score_shard(table, scene.selection, scene.model, scene.direction, scene.tokenizer, scene.impact).to_pylist()
    return [row["impact"] for row in rows]


def forward(scene: Scene, count: int) -> Any:
    from trace_ray.impact.pair_scores import PairRequest, score_pairs
    from trace_ray.impact.scores import Scorer

    scene.model.requires_grad_(False)
    with scene.model.disable_adapter():
        requests = [PairRequest(pair.prompt_ids, pair.response_ids, None) for pair in scene.pairs[:count]]
        score_pairs(requests, Scorer(scene.model, scene.direction), scene.impact.tokens, share_prompts=True)


def _log_prob(model: Any, prompt: Sequence[int], response: Sequence[int], pad_to: int = 0) -> Any:
    import torch

    ids = torch.tensor([[*prompt, *response]])
    mask = torch.ones_like(ids)
    if pad_to > ids.shape[1]:
        missing = pad_to - ids.shape[1]
        ids, mask = (torch.nn.functional.pad(x, (0, missing)) for x in (ids, mask))
    logits = model(input_ids=ids, attention_mask=mask).logits[0, len(prompt) - 1 : len(prompt) + len(response) - 1]
    return logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None]).sum()


def reference(scene: Scene, count: int) -> Any:
    """The paper's procedure: policy and reference log-probs of both responses without a graph, then both with one."""
    import torch

    parameters = scene.trainable()
    results = []
    for pair in scene.pairs[:count]:
        s = {}
        for name, ids in pair.response_ids.items():
            with torch.no_grad():
                for _ in range(2):
                    _log_prob(scene.model, pair.prompt_ids, ids, PADDED)
            s[name] = _dot(_log_prob(scene.model, pair.prompt_ids, ids, PADDED), parameters, scene.direction)
        results.append(s)
    return scene.impact_of(results)


def _dot(value: Any, parameters: dict[str, Any], direction: dict[str, Any]) -> float:
    import torch

    gradients = torch.autograd.grad(value, list(parameters.values()))
    return sum(float((g * direction[n]).sum()) for n, g in zip(parameters, gradients, strict=True))


def autograd(scene: Scene, count: int) -> Any:
    parameters = scene.trainable()
    return scene.impact_of(
        [
            {
                n: _dot(_log_prob(scene.model, p.prompt_ids, ids), parameters, scene.direction)
                for n, ids in p.response_ids.items()
            }
            for p in scene.pairs[:count]
        ]
    )


def oracle(scene: Scene, count: int) -> Any:
    scene.model.double()
    scene.direction = {name: value.double() for name, value in scene.direction.items()}
    return autograd(scene, count)


def _batched(scene: Scene, count: int, score: Callable[[Any], Any], tokens: int) -> Any:
    """Scores each response with ``score(PackedBatch)``, in batches of like length."""
    from trace_ray.model.batches import token_batches
    from trace_ray.model.packing import pack_each

    scene.model.set_attn_implementation("eager")
    flat = [(i, n, p.prompt_ids, ids) for i, p in enumerate(scene.pairs[:count]) for n, ids in p.response_ids.items()]
    results: list[dict[str, float]] = [{} for _ in range(count)]
    for at in token_batches([len(p) + len(y) for *_, p, y in flat], tokens):
        some = [flat[k] for k in at]
        values = score(pack_each((p, y) for *_, p, y in some)).tolist()
        for (i, name, *_), value in zip(some, values, strict=True):
            results[i][name] = value
    return scene.impact_of(results)


def jvp(scene: Scene, count: int) -> Any:
    import torch

    from trace_ray.model.head import OutputHead
    from trace_ray.model.log_probs import target_log_probs
    from trace_ray.model.packing import hidden_states

    parameters = {n: p.detach() for n, p in scene.trainable().items()}

    class LogProbs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = scene.model

        def forward(self, batch: Any) -> Any:
            logits_NV = OutputHead(self.model).logits(hidden_states(self.model, batch))
            return batch.by_response(target_log_probs(logits_NV, batch.target_N))

    module = LogProbs()

    def score(batch: Any) -> Any:
        def run(some: dict[str, Any]) -> Any:
            return torch.func.functional_call(module, {f"model.{n}": p for n, p in some.items()}, (batch,))

        with torch.no_grad():
            return torch.func.jvp(run, (parameters,), (scene.direction,))[1]

    return _batched(scene, count, score, scene.impact.tokens)


def vmap(scene: Scene, count: int) -> Any:
    import torch

    parameters = {n: p.detach() for n, p in scene.trainable().items()}
    causal = scene.model.get_base_model()

    def score(batch: Any) -> Any:
        length = batch.input_ids_BT.shape[1]
        weight_BT = torch.zeros(batch.rows, length).index_put((batch.response_N, batch.position_N), torch.ones(()))
        target_BT = torch.roll(batch.input_ids_BT, -1, 1)
        mask_11TT = torch.full((1, 1, length, length), torch.finfo(torch.float32).min).triu(1)
        places = torch.arange(length)[None]

        def logp(some: dict[str, Any], embeds_TD: Any, target_T: Any, weight_T: Any) -> Any:
            inputs = {"inputs_embeds": embeds_TD[None], "attention_mask": mask_11TT, "position_ids": places}
            logits = torch.func.functional_call(scene.model, some, (), inputs | {"use_cache": False}).logits[0]
            return (logits.log_softmax(-1).gather(1, target_T[:, None])[:, 0] * weight_T).sum()

        embeds_BTD = causal.get_input_embeddings()(batch.input_ids_BT).detach()
        gradients = torch.func.vmap(torch.func.grad(logp), (None, 0, 0, 0))(
            parameters, embeds_BTD, target_BT, weight_BT
        )
        return sum((g * scene.direction[n]).flatten(1).sum(1) for n, g in gradients.items())

    return _batched(scene, count, score, 4 * PADDED)


PROCEDURES: dict[str, Callable[[Scene, int], Any]] = {
    procedure.__name__: procedure for procedure in (ours, forward, reference, autograd, jvp, vmap, oracle)
}
