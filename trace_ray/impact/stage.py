"""Stage 2 on Ray tasks: initial adapter, gold batch, direction, then actors score shard after shard."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from trace_ray.chat.told import cut_warning
from trace_ray.cluster.actor_pool import ActorPool
from trace_ray.cluster.connection import ensure_ray
from trace_ray.cluster.tasks import groups
from trace_ray.config import Config, ImpactConfig, settings
from trace_ray.config.gpus import of_stages
from trace_ray.impact.direction_stage import task, write_direction
from trace_ray.impact.gold import pick_gold, pick_retain, tokenize_gold, tokenize_retain
from trace_ray.impact.rows import retain_share
from trace_ray.impact.shard import SHARD_SCHEMA
from trace_ray.impact.survey import SURVEY, Survey, survey
from trace_ray.impact.tally import Tally, kept_share
from trace_ray.impact.tasks import GOLD, RETAIN_SAMPLE, Shard, Shares, make_adapter, score_rows
from trace_ray.impact.weights import impact_summary, weight_rule
from trace_ray.model.kept import model_facts
from trace_ray.pairs import TRAINED, Split
from trace_ray.runs.anew import begin
from trace_ray.runs.artifacts import ADAPTER_INIT, SCORES, Run
from trace_ray.runs.identity import model_identity
from trace_ray.runs.weights import WEIGHTS
from trace_ray.runtime.progress import Meter, warn
from trace_ray.storage.traffic import Traffic

_AT_ONCE = 16
"""Tallies of finished shards that are read side by side."""


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
    ensure_ray(config.ray)
    requests = Traffic.begun()
    found = _survey(run, config)
    requests.add("survey", found.traffic)
    requests.add("direction", _write_adapter(run, config))
    shards = list(plan_shards(run, found.rows, config.impact.shard_rows))
    with _pool(config.impact) as pool:
        direction = write_direction(run, config, pool)
        requests.add("direction", direction.pop("traffic", {}))
        requests.own("direction")
        told = _score(run, config, shards, _shares(found.seen, config), pool)
    requests.add("score", told.traffic)
    requests.own("score")
    about = {"direction": direction, "noise": dict(found.noise), "model_loads": pool.loads, "run_as": pool.run_as}
    about["requests"] = requests.told()
    _publish(run, config, told, started, about)


def _pool(impact: ImpactConfig) -> ActorPool:
    return ActorPool(
        impact.num_cpus, impact.gpus, impact.label_selector, max_retries=impact.max_retries, facts=model_facts
    )


def _shares(seen: Mapping[str, int], config: Config) -> Shares:
    trained = {name.value: seen.get(f"{Split.TRAIN} {name}", 0) for name in TRAINED}
    weighed = sum(trained[name] for name in config.objective.weighed)
    return Shares(retain_share(trained, config.impact.retain_per_conflict), kept_share(weighed))


def _write_adapter(run: Run, config: Config) -> dict[str, int]:
    """Returns the requests to object stores that writing it took."""
    import ray

    place = run.impact.place / ADAPTER_INIT
    if config.impact.parameters == "lora" and not (place / "adapter_model.safetensors").exists():
        made: dict[str, int] = ray.get(
            task(make_adapter, config.impact, cpus=config.impact.num_cpus).remote(place, config)
        )
        return made
    return {}


def _survey(run: Run, config: Config) -> Survey:
    """Returns the survey of triaged/, made by tasks; writes the gold batch and the curvature's sample where they lack."""
    place = run.impact.place
    if (place / SURVEY).exists():
        return Survey.load((place / SURVEY).read_text())
    lacks_gold = not (place / GOLD).exists()
    lacks_retain = config.impact.curvature == "gauss_newton" and not (place / RETAIN_SAMPLE).exists()
    total = _surveyed(run, config, gold=lacks_gold, retain=lacks_retain)
    if lacks_gold or lacks_retain:
        _write_samples(run, config, total, retain=lacks_retain)
    (place / SURVEY).write_text(total.dump())
    return total


def _surveyed(run: Run, config: Config, *, gold: bool, retain: bool) -> Survey:
    import ray

    names = run.triaged.manifest()["parts"]
    look = task(survey, config.impact, cpus=1)
    waiting = {look.remote(run, config, some, gold=gold, retain=retain): len(some) for some in groups(names)}
    total = Survey()
    with Meter("impact: triaged pairs", len(names), "parts") as meter:
        while waiting:
            (ready, *_), _ = ray.wait(list(waiting))
            total += ray.get(ready)
            meter.advance(waiting.pop(ready))
    return total


def _write_samples(run: Run, config: Config, total: Survey, *, retain: bool) -> None:
    from trace_ray.model.loading import load_chat_tokenizer

    place, tokenizer = run.impact.place, load_chat_tokenizer(config.model)
    if retain:
        (place / RETAIN_SAMPLE).write_parquet(tokenize_retain(pick_retain(total.retain), tokenizer))
    if total.gold is not None:
        chosen = pick_gold(total.gold, corrected=config.objective.corrects)
        (place / GOLD).write_parquet(tokenize_gold(chosen, tokenizer))


def plan_shards(run: Run, rows: Mapping[str, int], shard_rows: int) -> Iterator[Shard]:
    """Yields the shards of triaged/, a function of its parts and ``shard_rows`` alone.

    Args:
        rows: by part; shard_rows: at most in a shard.
    """
    for name, count in sorted(rows.items()):
        for start in range(0, count, shard_rows):
            yield Shard(run.triaged.place / name, start, min(count, start + shard_rows))


def _score(run: Run, config: Config, shards: list[Shard], shares: Shares, pool: ActorPool) -> Tally:
    """Has the shards scored that are not; returns the tally of all."""
    finished = {place.name.removesuffix(".json") for place in (run.impact.place / SCORES).files(".json")}
    todo = [shard for shard in shards if shard.name not in finished]
    total = _told(run, [shard for shard in shards if shard.name in finished])
    with Meter("impact: scores", sum(s.stop - s.start for s in shards)) as meter:
        meter.skip(sum(s.stop - s.start for s in shards if s.name in finished))
        for shard, told in pool.each(score_rows, ((shard, (run, config, shard, shares)) for shard in todo)):
            total += told
            meter.advance(shard.stop - shard.start)
    return total


def _told(run: Run, shards: Sequence[Shard]) -> Tally:
    """Returns the sum of what finished shards have told."""
    place = run.impact.place / SCORES
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        stored = pool.map(lambda shard: Tally.load((place / f"{shard.name}.json").read_text()), shards)
        return sum(stored, Tally())


def _publish(run: Run, config: Config, told: Tally, started: float, about: Mapping[str, Any]) -> None:
    """Publishes both folders with the rule that turns impacts to weights, which readers lay over the shards' parts."""
    triaged = run.triaged.manifest()["counts"]
    counts = {**told.rows, "untrained": triaged["triaged"] - sum(told.rows.values()) - sum(told.refused.values())}
    facts = {
        "model": config.model.path,
        "gpus": of_stages(config, ["impact"]),
        "summary": impact_summary(told.impacts),
        **about,
    }
    facts |= {name: getattr(config.impact, name) for name in ("score_norm", "weight_norm", "weigh_within")}
    facts["ches"] = {
        name: {"pairs": pairs, "both_ways": told.both_ways.get(name, 0)} for name, pairs in told.compared.items()
    }
    facts[WEIGHTS] = weight_rule(told.impacts, config.objective, config.impact)
    facts |= {"cuts": told.cuts, "refused": told.refused, "max_length": config.model.max_length}
    if warning := cut_warning(told.cuts, told.refused, config.model.max_length):
        warn(f"impact: {warning}")
    seconds = time.monotonic() - started
    run.impact.publish(counts=counts, seconds=seconds, response_tokens=told.tokens, **facts)
    run.scored.publish(counts=counts, seconds=seconds, schema=SHARD_SCHEMA, **facts)
