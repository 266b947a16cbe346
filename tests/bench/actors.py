"""Shards of a tiny model scored by actors that keep it, and by a process a shard that loads it anew.

    python -m tests.bench.actors [--shards 40] [--workers 2]

As many at once either way, and the same shards: with the shipped tiny model on CPUs a load is most of a shard's time, with a
large one on a GPU it is the more. Ray is up before the clock; actors' own starts are in it, as the processes' are.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from tests.impact import stage_runs, world
from trace_ray.cluster.actor_pool import ActorPool
from trace_ray.config import Config, RayConfig, StorageConfig
from trace_ray.config.load import dump_config, load_text
from trace_ray.config.policy import PolicyConfig
from trace_ray.impact.stage import plan_shards, run_impact
from trace_ray.impact.tasks import Shard, Shares, score_rows
from trace_ray.model.kept import model_facts
from trace_ray.pairs import TRIAGED_SCHEMA
from trace_ray.runs.artifacts import SCORES, Run
from trace_ray.storage.location import locate

ROWS, ALL = 2, Shares(1.0)
"""Pairs of a shard; none is left out."""


def prepared(folder: Path, shards: int, config: Config) -> tuple[Run, list[Shard]]:
    """Returns a run with adapter and direction, and its shards; Ray is up."""
    run = Run(locate(str(folder), StorageConfig()))
    run.triaged.begin({"shards": shards})
    table = world.triaged(ROWS * shards)
    (run.triaged.place / "part-0.parquet").write_parquet(table)
    names = table["category"].to_pylist()
    counts = {"triaged": table.num_rows} | {f"train {name}": names.count(name) for name in set(names)}
    run.triaged.publish(counts=counts, seconds=0.0, schema=TRIAGED_SCHEMA)
    run_impact(run, config)
    return run, list(plan_shards(run, {"part-0.parquet": table.num_rows}, ROWS))


def by_actors(run: Run, config: Config, shards: Sequence[Shard]) -> int:
    """Scores the shards; returns how often a model was loaded."""
    with ActorPool(config.impact.num_cpus, facts=model_facts) as pool:
        for _ in pool.each(score_rows, ((shard.name, (run, config, shard, ALL)) for shard in shards)):
            pass
        return pool.loads


def by_processes(run: Run, config: Config, shards: Sequence[Shard], workers: int) -> int:
    """As ``by_actors``, each shard in a process of its own."""
    (Path(run.place.path) / "bench.yaml").write_text(dump_config(config))

    def one(shard: Shard) -> int:
        words = [run.place.path, shard.part.name, str(shard.start), str(shard.stop)]
        child = [sys.executable, "-m", "tests.bench.actors", "--one", *words]
        return int(subprocess.run(child, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])

    with ThreadPoolExecutor(workers) as threads:
        return sum(threads.map(one, shards))


def score_one(folder: str, part: str, start: str, stop: str) -> None:
    """What a process of ``by_processes`` does; prints how often it has loaded a model."""
    run = Run(locate(folder, StorageConfig()))
    config = load_text((Path(folder) / "bench.yaml").read_text(), "bench.yaml")
    score_rows(run, config, Shard(run.triaged.place / part, int(start), int(stop)), ALL)
    print(model_facts()["loads"])


def impacts(run: Run, shards: Sequence[Shard]) -> list[float]:
    """Returns the impacts in the shards' scored rows, which are then gone with their tallies."""
    found: list[float | None] = []
    for shard in shards:
        place = run.scored.place / f"{shard.name}.parquet"
        found += place.read_parquet()["impact"].to_pylist() if place.exists() else []
        for file in (place, run.impact.place / SCORES / f"{shard.name}.json"):
            if file.exists():
                file.fs.delete_file(file.path)
    return [impact for impact in found if impact is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--one", nargs=4, metavar="WORD", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        score_one(*options.one)
        return
    plain = replace(stage_runs.config(shard_rows=ROWS), ray=RayConfig(local_cpus=options.workers))
    policy = PolicyConfig(name="bench", text="Be brief.")
    config = replace(plain, policy=policy, impact=replace(plain.impact, num_gpus=0))
    result: dict[str, float] = {"shards": options.shards, "workers": options.workers}
    with tempfile.TemporaryDirectory() as folder:
        run, shards = prepared(Path(folder) / "run", options.shards, config)
        seen = [impacts(run, shards)]
        for name in ("actors", "processes"):
            started = time.perf_counter()
            loads = (
                by_actors(run, config, shards)
                if name == "actors"
                else by_processes(run, config, shards, options.workers)
            )
            result |= {f"{name}_s": round(time.perf_counter() - started, 2), f"{name}_loads": loads}
            seen.append(impacts(run, shards))
            print(f"{name:10s} {result[f'{name}_s']:8.2f} s  {loads:4d} loads  {len(seen[-1])} impacts")
    result["largest_difference"] = max(abs(a - b) for other in seen[1:] for a, b in zip(seen[0], other, strict=True))
    result["faster"] = round(result["processes_s"] / result["actors_s"], 2)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
