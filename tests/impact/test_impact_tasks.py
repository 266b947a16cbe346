"""The stage's tasks run by a plain loop: direction in parts, scores on disk, doing a shard twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.impact import tiny, world
from trace_ray.config import Config, ImpactConfig, StorageConfig
from trace_ray.impact.gold import PAIR_COLUMNS, choose_gold, choose_retain, tokenize_gold
from trace_ray.impact.tally import Tally
from trace_ray.impact.tasks import (
    DIRECTION,
    GOLD,
    RETAIN_SAMPLE,
    Shard,
    Shares,
    curvature_shard,
    gold_shard,
    make_adapter,
    read_direction,
    score_rows,
    spans,
    sum_part,
)
from trace_ray.model.loading import load_chat_tokenizer
from trace_ray.runs.artifacts import ADAPTER_INIT, SCORES, Run
from trace_ray.storage.location import locate

PAIRS = 41


def prepared(place: Path, **impact: Any) -> tuple[Run, Config]:
    run = Run(locate(str(place), StorageConfig()))
    config = Config(model=world.POLICY, lora=world.LORA, impact=ImpactConfig(batch_tokens=1024, **impact))
    table, tokenizer = world.triaged(PAIRS), load_chat_tokenizer(world.POLICY)
    parts = [table.select(PAIR_COLUMNS)]
    (run.impact.place / GOLD).write_parquet(tokenize_gold(choose_gold(parts, 7, 0, corrected=False), tokenizer))
    (run.impact.place / RETAIN_SAMPLE).write_parquet(tokenize_gold(choose_retain(parts, 5, 0), tokenizer))
    (run.triaged.place / "part-0.parquet").write_parquet(table)
    if config.impact.parameters == "lora":
        make_adapter(run.impact.place / ADAPTER_INIT, config)
    return run, config


def direction(run: Run, config: Config, tasks: int) -> list[str]:
    """Sums the gold shards' parts, as the stage does."""
    shards = [list(gold_shard(run, config, start, stop)) for start, stop in spans(7, tasks)]
    names = []
    for number, parts in enumerate(zip(*shards, strict=True)):
        names.append(f"direction-{number}.safetensors")
        facts = sum_part(run.impact.place / names[-1], 1 / 7, *parts)
        assert facts["finite"]
    (run.impact.place / DIRECTION).write_text(json.dumps({"parts": names}))
    return names


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_gold_shards_in_parts_are_the_whole_direction(parameters: str, tmp_path: Path) -> None:
    run, config = prepared(tmp_path / "a", parameters=parameters)
    direction(run, config, 1)
    whole = read_direction(run)
    run, config = prepared(tmp_path / "b", parameters=parameters, part_bytes=40_000)
    names = direction(run, config, 3)
    split = read_direction(run)
    assert len(names) > 1
    assert set(split) == set(whole)
    for name, value in whole.items():
        assert (split[name] - value).abs().max() <= 1e-4 * max(1e-6, float(value.abs().max()))


def test_a_shard_scored_twice_is_the_same_shard(tmp_path: Path) -> None:
    run, config = prepared(tmp_path)
    direction(run, config, 2)
    shard = Shard(run.triaged.place / "part-0.parquet", 11, PAIRS)
    told = score_rows(run, config, shard, Shares(retain=1.0))
    scored, stored = run.scored.place / "part-0-000000011.parquet", run.impact.place / SCORES / "part-0-000000011.json"
    first = scored.read_parquet()
    assert score_rows(run, config, shard, Shares(retain=1.0)) == told == Tally.load(stored.read_text())
    assert scored.read_parquet().equals(first)
    assert first.num_rows == sum(told.rows.values()) == PAIRS - 11


def test_curvature_shards_add_up(tmp_path: Path) -> None:
    run, config = prepared(tmp_path)
    vector = {name: value.numpy() for name, value in read_after(run, config).items()}
    whole = curvature_shard(run, config, vector, 0, 5)
    parts = [curvature_shard(run, config, vector, start, stop) for start, stop in spans(5, 3)]
    for name, value in whole.items():
        summed = sum(part[name] for part in parts)
        assert tiny.relative_error(summed.flatten(), value.flatten()) <= 1e-3 or not value.any()
    assert any(value.any() for value in whole.values())


def read_after(run: Run, config: Config) -> dict[str, Any]:
    direction(run, config, 1)
    return read_direction(run)
