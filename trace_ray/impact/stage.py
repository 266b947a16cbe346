"""Stage 2 on Ray tasks: initial adapter, gold batch, direction, then one idempotent task a shard, then weights."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from trace_ray.chat.told import cut_counts, cut_warning
from trace_ray.cluster.connection import ensure_ray
from trace_ray.config import Config, settings
from trace_ray.corpus.noise import noisy_table
from trace_ray.impact.direction_stage import slots, task, write_direction
from trace_ray.impact.gold import PAIR_COLUMNS, choose_gold, choose_retain, tokenize_gold
from trace_ray.impact.noise import record_noise
from trace_ray.impact.weights import impact_summary, raw_weights, weight_scale
from trace_ray.impact.worker import ADAPTER_INIT, GOLD, RETAIN_SAMPLE, Shard, make_adapter, score_rows
from trace_ray.pairs import CONFLICTS, RESPONSE_NAMES, SCORED_SCHEMA
from trace_ray.runs.anew import begin
from trace_ray.runs.artifacts import REFUSED, SCORES, Run
from trace_ray.runs.identity import model_identity
from trace_ray.runtime.progress import Meter, warn

__all__ = ["ADAPTER_INIT", "impact_inputs", "plan_shards", "run_impact"]


def impact_inputs(run: Run, config: Config) -> dict[str, Any]:
    """Returns everything that a scored row depends on."""
    parts = (("model", config.model), ("lora", config.lora), ("impact", config.impact), ("objective", config.objective))
    merged: dict[str, Any] = {"triaged": run.triaged.manifest()["inputs_hash"]}
    merged["model files"] = model_identity(config.model.path, config.model.revision, config.storage)
    for name, node in parts:
        merged |= settings(node, name)
    return merged | settings(config.corpus.noise, "corpus.noise")


def run_impact(run: Run, config: Config) -> None:
    """Writes impact/ (adapter_init for lora, gold, direction, scores) and scored/."""
    inputs = impact_inputs(run, config)
    started = time.monotonic()
    if not begin(run, "impact", inputs):
        return
    counts, noise = record_noise(run, config.corpus.noise)
    ensure_ray(config.ray)
    _write_adapter(run, config)
    _write_gold(run, config)
    direction = write_direction(run, config)
    shards = list(plan_shards(run, config))
    conflicts = sum(counts.get(f"train {name}", 0) for name in CONFLICTS)
    retain_share = config.impact.retain_per_conflict * conflicts / max(1, counts.get("train RETAIN", 0))
    _score(run, config, shards, retain_share)
    _write_weights(run, config, started, {"direction": direction, "noise": noise})


def _write_adapter(run: Run, config: Config) -> None:
    import ray

    place = run.impact.place / ADAPTER_INIT
    if config.impact.parameters == "lora" and not (place / "adapter_model.safetensors").exists():
        ray.get(task(make_adapter, config).remote(place, config))


def _write_gold(run: Run, config: Config) -> None:
    from trace_ray.model.loading import load_chat_tokenizer

    place, impact = run.impact.place, config.impact

    def parts() -> Iterator[pa.Table]:
        return (noisy_table(part.read_parquet(PAIR_COLUMNS), config.corpus.noise) for part in run.triaged.parts())

    if impact.curvature == "gauss_newton" and not (place / RETAIN_SAMPLE).exists():
        sample = choose_retain(parts(), impact.curvature_pairs, impact.seed)
        (place / RETAIN_SAMPLE).write_parquet(tokenize_gold(sample, load_chat_tokenizer(config.model)))
    if not (place / GOLD).exists():
        corrected = config.objective.PUNISH.prefer == "corrected"
        rows = choose_gold(parts(), impact.gold_size, impact.seed, corrected=corrected)
        (place / GOLD).write_parquet(tokenize_gold(rows, load_chat_tokenizer(config.model)))


def plan_shards(run: Run, config: Config) -> Iterator[Shard]:
    """Yields the shards of triaged/, a function of its parts and ``impact.shard_rows`` alone."""
    for name in run.triaged.manifest()["parts"]:
        part = run.triaged.place / name
        rows = part.read_parquet(["row"]).num_rows
        for start in range(0, rows, config.impact.shard_rows):
            stem = name.removesuffix(".parquet")
            out = run.impact.place / SCORES / f"{stem}-{start:09d}.parquet"
            yield Shard(part, start, min(rows, start + config.impact.shard_rows), out)


def _score(run: Run, config: Config, shards: list[Shard], retain_share: float) -> None:
    import ray

    finished = {place.name for place in (run.impact.place / SCORES).files(".parquet")}
    todo = [shard for shard in shards if shard.out.name not in finished]
    score = task(score_rows, config)
    in_flight: dict[Any, Shard] = {}
    with Meter("impact: scores", sum(s.stop - s.start for s in shards)) as meter:
        meter.skip(sum(s.stop - s.start for s in shards if s.out.name in finished))
        while todo or in_flight:
            while todo and len(in_flight) < 4 * slots(config):
                shard = todo.pop(0)
                in_flight[score.remote(run, config, shard, retain_share)] = shard
            ready, _ = ray.wait(list(in_flight), num_returns=1)
            ray.get(ready)
            for future in ready:
                shard = in_flight.pop(future)
                meter.advance(shard.stop - shard.start)


def _write_weights(run: Run, config: Config, started: float, about: dict[str, Any]) -> None:
    scores = (run.impact.place / SCORES).files(".parquet")
    raw: list[Any] = []
    weighed = config.objective.weighed
    impacts: dict[str, list[Any]] = {name: [] for name in weighed}
    for place in scores:
        table = place.read_parquet(["impact", "category"])
        impact, category = table["impact"].to_numpy(), np.array(table["category"].to_pylist(), dtype=object)
        for name, found in impacts.items():
            found.append(impact[category == name])
        raw.append(raw_weights(impact, category, config.objective.weights, weighed)[np.isin(category, weighed)])
    all_raw = np.concatenate(raw) if raw else np.empty(0)
    scale = weight_scale(float(all_raw.sum()), len(all_raw), config.impact.weight_norm, config.objective.weights)
    counts: Counter[str] = Counter()
    cuts: Counter[str] = Counter(cut_counts([]))
    tokens = 0
    for place in scores:
        table = place.read_parquet()
        if not table.num_rows:
            continue
        category = np.array(table["category"].to_pylist(), dtype=object)
        weight = raw_weights(table["impact"].to_numpy(), category, config.objective.weights, weighed)
        weight = np.where(np.isin(category, weighed), weight * scale, 1.0)
        (run.scored.place / place.name).write_parquet(
            table.append_column("weight", pa.array(weight)).select(SCORED_SCHEMA.names).cast(SCORED_SCHEMA)
        )
        counts.update(category.tolist())
        cuts.update(cut_counts(table["cut"].to_pylist()))
        tokens += sum(len(table[f"{name}_ids"].combine_chunks().flatten()) for name in RESPONSE_NAMES)
    summary = impact_summary({name: np.concatenate(found) for name, found in impacts.items() if found})
    triaged = run.triaged.manifest()["counts"]
    refused = Counter(
        reason
        for place in (run.impact.place / REFUSED).files(".parquet")
        for reason in place.read_parquet(["reason"])["reason"].to_pylist()
    )
    counts["untrained"] = triaged["triaged"] - sum(counts.values()) - sum(refused.values())
    seconds = time.monotonic() - started
    norms = {"score_norm": config.impact.score_norm, "weight_norm": config.impact.weight_norm, "scale": scale}
    facts = {"model": config.model.path, "summary": summary, **about, **norms}
    facts |= {"cuts": dict(cuts), "refused": dict(refused), "max_length": config.model.max_length}
    if warning := cut_warning(cuts, refused, config.model.max_length):
        warn(f"impact: {warning}")
    run.impact.publish(counts=counts, seconds=seconds, response_tokens=tokens, **facts)
    run.scored.publish(counts=counts, seconds=seconds, schema=SCORED_SCHEMA, **facts)
