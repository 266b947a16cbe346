"""Stage 2 on Ray tasks: initial adapter, gold batch, direction, then one idempotent task a shard, then weights."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from trace_ray import metrics
from trace_ray.artifacts import Run
from trace_ray.cluster import ensure_ray
from trace_ray.config import Config, settings
from trace_ray.corpus.noise import noisy_table
from trace_ray.errors import UserError
from trace_ray.impact.gold import PAIR_COLUMNS, choose_gold, tokenize_gold
from trace_ray.impact.noise import record_noise
from trace_ray.impact.weights import impact_summary, raw_weights, weight_scale
from trace_ray.pairs import CONFLICTS, RESPONSE_NAMES, SCORED_SCHEMA
from trace_ray.progress import Meter
from trace_ray.storage import Location, download_folder, upload_folder

ADAPTER_INIT, DIRECTION, GOLD, SCORES = "adapter_init", "direction.safetensors", "gold.parquet", "scores"


def impact_inputs(run: Run, config: Config) -> dict[str, Any]:
    """Returns everything that a scored row depends on."""
    parts = (("model", config.model), ("lora", config.lora), ("impact", config.impact), ("objective", config.objective))
    merged: dict[str, Any] = {"triaged": run.triaged.manifest()["inputs_hash"]}
    for name, node in parts:
        merged |= settings(node, name)
    return merged | settings(config.corpus.noise, "corpus.noise")


def run_impact(run: Run, config: Config) -> None:
    """Writes impact/ (adapter_init, gold, direction, scores) and scored/."""
    inputs = impact_inputs(run, config)
    started = time.monotonic()
    if not any([run.impact.begin(inputs), run.scored.begin(inputs)]):
        return
    counts, noise = record_noise(run, config.corpus.noise)
    ensure_ray(config.ray)
    place = run.impact.place
    _once(
        place / ADAPTER_INIT / "adapter_model.safetensors", _task(_make_adapter, config), place / ADAPTER_INIT, config
    )
    _write_gold(run, config)
    _write_direction(run, config)
    shards = list(plan_shards(run, config))
    conflicts = sum(counts.get(f"train {name}", 0) for name in CONFLICTS)
    retain_share = config.impact.retain_per_conflict * conflicts / max(1, counts.get("train RETAIN", 0))
    _score(run, config, shards, retain_share)
    _write_weights(run, config, started, noise)


def _task(function: Any, config: Config) -> Any:
    import ray

    impact = config.impact
    options = {"num_cpus": impact.num_cpus, "num_gpus": impact.num_gpus or None, "max_retries": impact.max_retries}
    return ray.remote(**options)(function)


def _once(result: Location, task: Any, *arguments: Any) -> None:
    import ray

    if not result.exists():
        ray.get(task.remote(*arguments))


def _threads(config: Config) -> Any:
    """Uses the cores this task was given; returns the device."""
    import torch

    torch.set_num_threads(max(1, int(config.impact.num_cpus)))
    return torch.device("cuda" if config.impact.num_gpus and torch.cuda.is_available() else "cpu")


def _make_adapter(place: Location, config: Config) -> None:
    from trace_ray.models import load_model, new_adapter

    _threads(config)
    model = new_adapter(load_model(config.model), config.lora, config.impact.seed)
    upload_folder(lambda folder: model.save_pretrained(folder, safe_serialization=True), place)


_LOADED: dict[str, tuple[str, Any]] = {}
"""What this worker process has loaded, one of a kind: tasks of one run share it, another run's replaces it."""


def _loaded(kind: str, key: str, make: Callable[[], Any]) -> Any:
    if _LOADED.get(kind, ("", None))[0] != key:
        _LOADED[kind] = (key, make())
    return _LOADED[kind][1]


def _model(run: Run, config: Config, *, trainable: bool) -> Any:
    """The model with the initial adapter, in evaluation mode, on this task's device."""
    from trace_ray.models import load_adapter, load_model

    device = _threads(config)
    place = run.impact.place / ADAPTER_INIT

    def make() -> Any:
        with download_folder(place) as folder:
            return load_adapter(load_model(config.model), folder, trainable=trainable).eval().to(device)

    return _loaded("model", f"{place.uri} {config.model} {trainable}", make)


def _write_gold(run: Run, config: Config) -> None:
    from trace_ray.models import load_chat_tokenizer

    place = run.impact.place / GOLD
    if place.exists():
        return
    corrected = config.objective.PUNISH.prefer == "corrected"
    parts = (noisy_table(part.read_parquet(PAIR_COLUMNS), config.corpus.noise) for part in run.triaged.parts())
    rows = choose_gold(parts, config.impact.gold_size, config.impact.seed, corrected=corrected)
    place.write_parquet(tokenize_gold(rows, load_chat_tokenizer(config.model)))


def _write_direction(run: Run, config: Config) -> None:
    """V = g_J / gamma, the gold shards' gradients summed."""
    import ray
    from safetensors.numpy import save

    place = run.impact.place / DIRECTION
    if place.exists():
        return
    size = (run.impact.place / GOLD).read_parquet(["pair_id"]).num_rows
    cpus = max(1, int(ray.cluster_resources().get("CPU", 1) // max(0.01, config.impact.num_cpus)))
    step = max(1, -(-size // cpus))
    task = _task(_gold_shard, config)
    pending = [task.remote(run, config, start, min(size, start + step)) for start in range(0, size, step)]
    total: dict[str, Any] = {}
    with Meter("impact: direction", size, "gold pairs") as meter:
        for start, future in zip(range(0, size, step), pending, strict=True):
            for name, gradient in ray.get(future).items():
                total[name] = total.get(name, 0.0) + gradient
            meter.advance(min(size, start + step) - start)
    direction = {name: np.asarray(g / (size * config.impact.gamma), np.float32) for name, g in total.items()}
    if not all(np.isfinite(v).all() for v in direction.values()) or not any(v.any() for v in direction.values()):
        raise UserError(
            "impact", "the gold gradient is zero or not finite", "check the model's weights and model.dtype"
        )
    place.write_bytes(save(direction))


def _gold_shard(run: Run, config: Config, start: int, stop: int) -> dict[str, Any]:
    from trace_ray.impact.gradient import gold_gradient

    model = _model(run, config, trainable=True)
    rows = (run.impact.place / GOLD).read_parquet().slice(start, stop - start).to_pylist()
    summed = gold_gradient(model, rows, beta=config.objective.beta, batch_tokens=config.impact.batch_tokens)
    return {name: gradient.cpu().double().numpy() for name, gradient in summed.items()}


@dataclass(frozen=True)
class Shard:
    """Rows start..stop of one part of triaged/, scored into ``out``."""

    part: Location
    start: int
    stop: int
    out: Location


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
    task = _task(_score_shard, config)
    in_flight: dict[Any, Shard] = {}
    limit = 4 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    with Meter("impact: scores", sum(s.stop - s.start for s in shards)) as meter:
        meter.skip(sum(s.stop - s.start for s in shards if s.out.name in finished))
        while todo or in_flight:
            while todo and len(in_flight) < limit:
                shard = todo.pop(0)
                in_flight[task.remote(run, config, shard, retain_share)] = shard
            ready, _ = ray.wait(list(in_flight), num_returns=1)
            ray.get(ready)
            for future in ready:
                shard = in_flight.pop(future)
                meter.advance(shard.stop - shard.start)


def _score_shard(run: Run, config: Config, shard: Shard, retain_share: float) -> None:
    from safetensors.torch import load

    from trace_ray.impact.shard import Selection, score_shard
    from trace_ray.models import load_chat_tokenizer

    model = _model(run, config, trainable=False)
    device = next(model.parameters()).device
    place = run.impact.place / DIRECTION
    direction = _loaded("direction", place.uri, lambda: {n: v.to(device) for n, v in load(place.read_bytes()).items()})
    triaged = noisy_table(shard.part.read_parquet().slice(shard.start, shard.stop - shard.start), config.corpus.noise)
    selection = Selection(config.objective, retain_share, config.impact.seed)
    tokenizer = _loaded("tokenizer", str(config.model), lambda: load_chat_tokenizer(config.model))
    scored = score_shard(triaged, selection, model, direction, tokenizer, config.impact)
    shard.out.write_parquet(scored)
    metrics.count_each("pairs_scored", "category", scored["category"].to_pylist())


def _write_weights(run: Run, config: Config, started: float, noise: dict[str, int]) -> None:
    scores = (run.impact.place / SCORES).files(".parquet")
    raw: list[Any] = []
    impacts: dict[str, list[Any]] = {name.value: [] for name in CONFLICTS}
    for place in scores:
        table = place.read_parquet(["impact", "category"])
        impact, category = table["impact"].to_numpy(), np.array(table["category"].to_pylist(), dtype=object)
        for name, found in impacts.items():
            found.append(impact[category == name])
        conflict = np.isin(category, [c.value for c in CONFLICTS])
        raw.append(raw_weights(impact, category, config.objective.weights)[conflict])
    all_raw = np.concatenate(raw) if raw else np.empty(0)
    scale = weight_scale(float(all_raw.sum()), len(all_raw), config.impact.weight_norm, config.objective.weights)
    counts: Counter[str] = Counter()
    tokens = 0
    for place in scores:
        table = place.read_parquet()
        if not table.num_rows:
            continue
        category = np.array(table["category"].to_pylist(), dtype=object)
        weight = raw_weights(table["impact"].to_numpy(), category, config.objective.weights)
        weight = np.where(np.isin(category, [c.value for c in CONFLICTS]), weight * scale, 1.0)
        (run.scored.place / place.name).write_parquet(
            table.append_column("weight", pa.array(weight)).select(SCORED_SCHEMA.names).cast(SCORED_SCHEMA)
        )
        counts.update(category.tolist())
        tokens += sum(len(table[f"{name}_ids"].combine_chunks().flatten()) for name in RESPONSE_NAMES)
    summary = impact_summary({name: np.concatenate(found) for name, found in impacts.items() if found})
    triaged = run.triaged.manifest()["counts"]
    counts["untrained"] = triaged["triaged"] - sum(counts.values())
    seconds = time.monotonic() - started
    facts = {"model": config.model.path, "summary": summary, "weight_norm": config.impact.weight_norm, "scale": scale}
    facts["noise"] = noise
    run.impact.publish(counts=counts, seconds=seconds, response_tokens=tokens, **facts)
    run.scored.publish(counts=counts, seconds=seconds, schema=SCORED_SCHEMA, **facts)
