"""The project's figures, read from Ray's own recorder; nothing where there is no Ray."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import ray

from tests.support.regrouped import regrouped
from trace_ray.config import CorpusConfig, StorageConfig
from trace_ray.corpus.read import Source
from trace_ray.runtime import metrics
from trace_ray.storage.location import locate


class Seen:
    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.name, self.tag_keys = name, tag_keys
        self.values: list[tuple[float, dict[str, str] | None]] = []

    def inc(self, amount: float, tags: dict[str, str] | None) -> None:
        assert set(tags or {}) == set(self.tag_keys)
        self.values.append((amount, tags))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, Seen]:
    """Metrics as they were made, by name, each with what it was told."""
    import ray.util.metrics

    found: dict[str, Seen] = {}

    def make(name: str, description: str, tag_keys: tuple[str, ...]) -> Seen:
        return found.setdefault(name, Seen(name, description, tag_keys))

    monkeypatch.setattr(ray.util.metrics, "Counter", make)
    monkeypatch.setattr(metrics, "_in_ray", lambda: True)
    monkeypatch.setattr(metrics, "_made", {})
    return found


def test_verdicts_are_counted_by_category_and_cache_use_by_token(made: dict[str, Seen]) -> None:
    metrics.count_each("pairs_judged", "category", ["INVERT", None, "RETAIN", "INVERT"])
    metrics.count_judge({"judged_tokens": 10, "prefix_cache_hits": 0, "prefix_cache_queries": 8})
    assert made["trace_ray_judge_prefix_queries"].values == [(8, None)]
    assert made["trace_ray_pairs_judged"].values == [(2, {"category": "INVERT"}), (1, {"category": "RETAIN"})]
    assert made["trace_ray_judge_tokens"].values == [(10, None)]
    assert "trace_ray_judge_prefix_hits" not in made
    metrics.count_judge({"prefix_cache_hits": 6, "prefix_cache_queries": 7})
    assert made["trace_ray_judge_prefix_hits"].values == [(6, None)]
    assert made["trace_ray_judge_prefix_queries"].values == [(8, None), (7, None)]


def test_a_first_a_second_and_an_endpoints_judge_count_too(made: dict[str, Seen]) -> None:
    used = {
        "first_judged_tokens": 3,
        "judged_tokens": 4,
        "second_endpoint_tokens": 5,
        "second_retries": 2,
        "requests": 9,
    }
    metrics.count_judge(used)
    assert made["trace_ray_judge_tokens"].values == [(3, None), (4, None), (5, None)]
    assert made["trace_ray_retries"].values == [(2, {"kind": "endpoint"})]
    assert set(made) == {"trace_ray_judge_tokens", "trace_ray_retries"}


def test_rows_that_reading_refuses_are_counted_by_reason(made: dict[str, Seen], tmp_path: Path) -> None:
    pair = json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"})
    (tmp_path / "x.jsonl").write_text(f"{pair}\n{{broken\n[]\n{{half\n")
    place = locate(str(tmp_path), StorageConfig())
    source = Source(place / "x.jsonl", 0, "")
    assert regrouped([source], CorpusConfig(), 1, place / "work", place / "rejects")[0]["rejects"] == 3
    told = {str(tags): amount for amount, tags in made["trace_ray_rejects"].values}
    assert told == {
        str({"reason": "broken_json", "stage": "triage"}): 2,
        str({"reason": "missing_field", "stage": "triage"}): 1,
    }


def test_outside_ray_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    ray.shutdown()  # another test's
    monkeypatch.setattr(metrics, "_made", {})
    metrics.count("pairs_judged", 3, category="RETAIN")
    assert "pairs_judged" not in metrics._made


def test_a_name_that_is_not_in_the_table_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_in_ray", lambda: True)
    with pytest.raises(KeyError):
        metrics.count("pairs_juged", 1)


def test_clusters_readme_lists_every_figure_with_its_tags() -> None:
    text = (Path(__file__).parents[2] / "clusters" / "README.md").read_text()
    listed = set(re.findall(r"`([a-z_]+)(?:\{[a-z,]+\})?`", text.split("## Metrics")[1].replace(" / ", "` `")))
    assert {f"{name}_total" for name in metrics.COUNTERS} <= listed
    assert set(metrics.GAUGES) <= listed
    for name, (_, tags) in metrics.COUNTERS.items():
        assert not tags or f"`{name}_total{{{','.join(tags)}}}`" in text
