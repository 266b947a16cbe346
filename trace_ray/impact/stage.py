"""Stage 2 on Ray tasks: initial adapter, gold batch, direction, then one idempotent task a shard, then weights."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from trace_ray.chat.told import cut_counts, cut_warning
from trace_ray.cluster.connection import ensure_ray
from trace_ray.config import Config, settings
from trace_ray.corpus.noise import noisy_table, record_noise
from trace_ray.impact.direction_stage import slots, task, write_direction
from trace_ray.impact.gold import PAIR_COLUMNS, curvature_sample, gold_batch
from trace_ray.impact.rows import retain_share
from trace_ray.impact.tasks import GOLD, RETAIN_SAMPLE, Shard, make_adapter, score_rows
from trace_ray.impact.weights import Weighing
from trace_ray.pairs import RESPONSE_NAMES, SCORED_SCHEMA, TRAINED
from trace_ray.runs.anew import begin
from trace_ray.runs.artifacts import ADAPTER_INIT, REFUSED, SCORES, Run
from trace_ray.runs.identity import model_identity
from trace_ray.runtime.progress import Meter, warn


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
    trained = {name.value: counts.get(f"train {name}", 0) for name in TRAINED}
    _score(run, config, shards, retain_share(trained, config.impact.retain_per_conflict))
    _write_weights(run, config, started, {"direction": direction, "noise": noise})


def _write_adapter(run: Run, config: Config) -> None:
    import ray

    place = run.impact.place / ADAPTER_INIT
    if config.impact.parameters == "lora" and not (place / "adapter_model.safetensors").exists():
        ray.get(task(make_adapter, config).remote(place, config))


def _write_gold(run: Run, config: Config) -> None:
    from trace_ray.model.loading import load_chat_tokenizer

    place = run.impact.place

    def parts() -> Iterator[pa.Table]:
        return (noisy_table(part.read_parquet(PAIR_COLUMNS), config.corpus.noise) for part in run.triaged.parts())

    if config.impact.curvature == "gauss_newton" and not (place / RETAIN_SAMPLE).exists():
        sample = curvature_sample(parts(), config.impact, load_chat_tokenizer(config.model))
        (place / RETAIN_SAMPLE).write_parquet(sample)
    if not (place / GOLD).exists():
        (place / GOLD).write_parquet(gold_batch(parts(), config, load_chat_tokenizer(config.model)))


def plan_shards(run: Run, config: Config) -> Iterator[Shard]:
    """Yields the shards of triaged/, a function of its parts and ``impact.shard_rows`` alone."""
    for name in run.triaged.manifest()["parts"]:
        part = run.triaged.place / name
        rows = part.read_parquet(["row"]).num_rows
        for start in range(0, rows, config.impact.shard_rows):
            stem = name.removesuffix(".parquet")
            out = run.impact.place / SCORES / f"{stem}-{start:09d}.parquet"
            yield Shard(part, start, min(rows, start + config.impact.shard_rows), out)


def _score(run: Run, config: Config, shards: list[Shard], share: float) -> None:
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
                in_flight[score.remote(run, config, shard, share)] = shard
            ready, _ = ray.wait(list(in_flight), num_returns=1)
            ray.get(ready)
            for future in ready:
                shard = in_flight.pop(future)
                meter.advance(shard.stop - shard.start)


def _write_weights(run: Run, config: Config, started: float, about: dict[str, Any]) -> None:
    scores = (run.impact.place / SCORES).files(".parquet")
    impacts = (place.read_parquet(["impact", "category"]) for place in scores)
    weighing = Weighing(impacts, config.objective, config.impact)
    counts: Counter[str] = Counter()
    cuts: Counter[str] = Counter(cut_counts([]))
    tokens = 0
    for place in scores:
        table = place.read_parquet()
        if not table.num_rows:
            continue
        (run.scored.place / place.name).write_parquet(weighing.weighed(table))
        counts.update(table["category"].to_pylist())
        cuts.update(cut_counts(table["cut"].to_pylist()))
        tokens += sum(len(table[f"{name}_ids"].combine_chunks().flatten()) for name in RESPONSE_NAMES)
    triaged = run.triaged.manifest()["counts"]
    refused = Counter(
        reason
        for place in (run.impact.place / REFUSED).files(".parquet")
        for reason in place.read_parquet(["reason"])["reason"].to_pylist()
    )
    counts["untrained"] = triaged["triaged"] - sum(counts.values()) - sum(refused.values())
    seconds = time.monotonic() - started
    norms = {name: getattr(config.impact, name) for name in ("score_norm", "weight_norm", "weigh_within")}
    facts = {"model": config.model.path, "summary": weighing.summary(), **about, **norms, "scale": weighing.scale}
    facts |= {"cuts": dict(cuts), "refused": dict(refused), "max_length": config.model.max_length}
    if warning := cut_warning(cuts, refused, config.model.max_length):
        warn(f"impact: {warning}")
    run.impact.publish(counts=counts, seconds=seconds, response_tokens=tokens, **facts)
    run.scored.publish(counts=counts, seconds=seconds, schema=SCORED_SCHEMA, **facts)
