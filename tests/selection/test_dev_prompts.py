"""Dev prompts: apart from what is evaluated, spread over categories and sources, and a function of seed and prompt."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from trace_ray.config import Config, EvaluateConfig, RealignConfig, SelectConfig, StorageConfig
from trace_ray.evaluate.prompt_files import Row
from trace_ray.evaluate.prompts import PROMPT_COLUMNS, dev_prompts, drift_pairs, held_out_prompts, shares_of
from trace_ray.evaluate.stage import evaluation_prompts
from trace_ray.pairs import TRIAGED_SCHEMA
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate

STRATA = {("INVERT", "a"): 60, ("PUNISH", "a"): 31, ("RETAIN", "a"): 24, ("RETAIN", "b"): 9, ("ABSTAIN", "b"): 1}


def rows_of(name: str, source: str, number: int, split: str, repeats: int) -> list[Row]:
    """``number`` prompts, each with ``repeats`` pairs."""
    return [
        {"pair_id": f"{split}{name}{source}{i}-{again}", "source": source, "split": split, "category": name}
        | {"prompt": [{"role": "user", "content": f"{split} {name} {source} {i}"}], "chosen": f"yes {i} {again}"}
        for i in range(number)
        for again in range(repeats)
    ]


def triaged(folder: Path, reverse: bool = False) -> Run:
    """Held-out prompts of STRATA, two pairs each, in parts, and as many prompts to train on."""
    run = Run(locate(str(folder), StorageConfig()))
    run.triaged.begin({})
    parts = [
        [row for split in ("test", "train") for row in rows_of(name, source, number, split, 2)]
        for (name, source), number in STRATA.items()
    ]
    for at, rows in enumerate(parts[::-1] if reverse else parts):
        (run.triaged.place / f"part-{at}.parquet").write_parquet(pa.Table.from_pylist(rows, schema=TRIAGED_SCHEMA))
    run.triaged.publish(counts={}, seconds=0.0)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return triaged(tmp_path_factory.mktemp("dev"))


def texts(rows: list[Row]) -> set[str]:
    return {row["prompt"][0]["content"] for row in rows}


def test_each_stratum_gives_its_share_and_at_most_half(run: Run) -> None:
    found = dev_prompts(run.triaged, SelectConfig(steps=1, prompts=25))
    counts = Counter((row["category"], row["source"]) for row in found)
    assert counts == {("INVERT", "a"): 12, ("PUNISH", "a"): 6, ("RETAIN", "a"): 5, ("RETAIN", "b"): 2}
    assert len(texts(found)) == len(found) == 25
    every = Counter((row["category"], row["source"]) for row in dev_prompts(run.triaged, SelectConfig(steps=1)))
    assert every == {stratum: number // 2 for stratum, number in STRATA.items() if number > 1}


def test_what_is_evaluated_is_the_rest_and_no_dev_prompt(run: Run) -> None:
    select = SelectConfig(steps=1, prompts=25)
    dev = texts(dev_prompts(run.triaged, select))
    with_selection = texts(evaluation_prompts(run, Config(realign=RealignConfig(select=select))))
    without = texts(evaluation_prompts(run, Config()))
    assert with_selection | dev == without
    assert not with_selection & dev
    assert all(text.startswith("test ") for text in dev)
    limited = Config(realign=RealignConfig(select=select), evaluate=EvaluateConfig(prompts=7))
    assert len(evaluation_prompts(run, limited)) == 7


def test_without_selection_nothing_is_set_apart(run: Run) -> None:
    assert dev_prompts(run.triaged, SelectConfig(prompts=25)) == []
    every = held_out_prompts(run.triaged.tables(PROMPT_COLUMNS), 0)
    assert evaluation_prompts(run, Config()) == every


def test_seed_and_prompt_say_which_not_the_order_of_the_parts(run: Run, tmp_path: Path) -> None:
    select = SelectConfig(steps=1, prompts=25)
    chosen = texts(dev_prompts(run.triaged, select))
    assert texts(dev_prompts(triaged(tmp_path, reverse=True).triaged, select)) == chosen
    assert texts(dev_prompts(run.triaged, SelectConfig(steps=1, prompts=25, seed=1))) != chosen
    more = texts(dev_prompts(run.triaged, SelectConfig(steps=1, prompts=50)))
    assert len(chosen & more) == 25, "a larger number adds to the smaller one's"


def test_shares_add_up_where_there_is_room() -> None:
    for limit in range(1, 70):
        shares = shares_of(STRATA, limit)
        assert sum(shares.values()) == min(limit, sum(number // 2 for number in STRATA.values()))
        assert all(shares[name] <= number // 2 for name, number in STRATA.items())


def test_drift_is_measured_on_dev_pairs_then_on_trained_ones_and_on_no_other_held_out_pair(run: Run) -> None:
    dev = {row["pair_id"] for row in dev_prompts(run.triaged, SelectConfig(steps=1, prompts=25))}
    kept = drift_pairs(run.triaged, 20, dev)
    own = [row["pair_id"] in dev for row in kept]
    assert own == sorted(own, reverse=True)
    assert sum(own) == 7
    assert {row["split"] for row, mine in zip(kept, own, strict=True) if not mine} == {"train"}
    assert {row["split"] for row in drift_pairs(run.triaged, 20)} == {"test"}
