"""Stage 2's look at all triaged pairs: the same whatever the parts and groups; label noise counted and recorded."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from trace_ray.cluster.tasks import GROUPS, groups
from trace_ray.config import Config, CorpusConfig, ImpactConfig, NoiseConfig, StorageConfig
from trace_ray.corpus.noise import NOISE
from trace_ray.impact.gold import pick_gold, pick_retain
from trace_ray.impact.stage import plan_shards
from trace_ray.impact.survey import Survey, survey
from trace_ray.pairs import TRIAGED_SCHEMA
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate

CATEGORIES = ("RETAIN", "RETAIN", "INVERT", "PUNISH", "ABSTAIN")
ROWS = 157
CONFIG = Config(impact=ImpactConfig(gold_size=11, curvature_pairs=7, shard_rows=13, seed=4))
DAMAGED = replace(CONFIG, corpus=CorpusConfig(noise=NoiseConfig(flip=0.3, swap=0.2)))


def triaged(number: int) -> dict[str, Any]:
    texts = {"prompt": [{"role": "user", "content": f"x{number}"}], "chosen": f"w{number}", "rejected": f"l{number}"}
    split = "test" if number % 6 == 0 else "train"
    return {"row": number, "pair_id": f"{number:032x}", "split": split, "category": CATEGORIES[number % 5], **texts}


def made(folder: Path, part_rows: int) -> Run:
    run = Run(locate(str(folder), StorageConfig()))
    run.triaged.begin({})
    for start in range(0, ROWS, part_rows):
        rows = [triaged(number) for number in range(start, min(ROWS, start + part_rows))]
        place = run.triaged.place / f"part-{start:06d}.parquet"
        place.write_parquet(pa.Table.from_pylist(rows, schema=TRIAGED_SCHEMA))
    run.triaged.publish(counts={}, seconds=0)
    return run


def surveyed(run: Run, config: Config) -> Survey:
    names = run.triaged.manifest()["parts"]
    return sum((survey(run, config, some, gold=True, retain=True) for some in groups(names)), Survey())


@pytest.mark.parametrize("config", [CONFIG, DAMAGED], ids=["as judged", "noise"])
def test_the_samples_are_the_same_however_the_pairs_lie_in_parts(config: Config, tmp_path: Path) -> None:
    chosen = []
    for part_rows in (1, 10, ROWS):
        run = made(tmp_path / str(part_rows), part_rows)
        found = surveyed(run, config)
        assert found.gold is not None
        chosen.append((pick_gold(found.gold, corrected=False), pick_retain(found.retain), found.seen, found.noise))
        assert Survey.load(found.dump()) == Survey(found.rows, found.seen, found.noise)
        shards = list(plan_shards(run, found.rows, config.impact.shard_rows))
        assert sum(shard.stop - shard.start for shard in shards) == ROWS
        assert all(shard.part.exists() and shard.stop - shard.start <= 13 for shard in shards)
    assert chosen[0] == chosen[1] == chosen[2]
    gold, retain, *_ = chosen[0]
    assert (len(gold), len(retain)) == (11, 7)
    assert len({row["pair_id"] for row in gold}) == 11


def test_counts_are_those_that_training_sees(tmp_path: Path) -> None:
    run = made(tmp_path, 50)
    plain, found = surveyed(run, CONFIG), surveyed(run, DAMAGED)
    by_hand = Counter(f"{row['split']} {row['category']}" for row in map(triaged, range(ROWS)))
    assert plain.seen == dict(by_hand)
    assert not plain.noise
    record = [row for part in (run.impact.place / NOISE).files() for row in part.read_parquet().to_pylist()]
    assert Counter(f"noise {row['kind']}" for row in record) == Counter(found.noise)
    moved = Counter(by_hand)
    for row in record:
        if row["kind"] == "flip":
            moved.subtract([f"train {row['was']}"])
            moved.update([f"train {row['category']}"])
    assert found.seen == {name: count for name, count in moved.items() if count}
    assert found.noise["noise flip"] > found.noise["noise swap"] > 0


def test_groups_hold_every_part_once() -> None:
    for count in (1, GROUPS - 1, GROUPS, GROUPS + 1, 5 * GROUPS):
        names = [str(i) for i in range(count)]
        found = groups(names)
        assert len(found) <= GROUPS
        assert sorted(name for some in found for name in some) == sorted(names)
        assert max(map(len, found)) - min(map(len, found)) <= 1
    assert groups([]) == []
