"""The project's figures, read from Ray's own recorder; nothing where there is no Ray."""

from __future__ import annotations

import pytest
import ray

from trace_ray import metrics


class Seen:
    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.name, self.tag_keys = name, tag_keys
        self.values: list[tuple[float, dict[str, str] | None]] = []

    def inc(self, amount: float, tags: dict[str, str] | None) -> None:
        assert set(tags or {}) == set(self.tag_keys)
        self.values.append((amount, tags))


def test_verdicts_are_counted_by_category_and_cache_use_by_token(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.util.metrics

    made: dict[str, Seen] = {}

    def counter(name: str, description: str, tag_keys: tuple[str, ...]) -> Seen:
        return made.setdefault(name, Seen(name, description, tag_keys))

    monkeypatch.setattr(ray.util.metrics, "Counter", counter)
    monkeypatch.setattr(metrics, "_in_ray", lambda: True)
    monkeypatch.setattr(metrics, "_made", {})
    metrics.count_each("pairs_judged", "category", ["INVERT", None, "RETAIN", "INVERT"])
    metrics.count_judge({"judged_tokens": 10, "prefix_cache_hits": 0, "prefix_cache_queries": 8})
    assert made["trace_ray_pairs_judged"].values == [(2, {"category": "INVERT"}), (1, {"category": "RETAIN"})]
    assert made["trace_ray_judge_tokens"].values == [(10, None)]
    assert "trace_ray_judge_prefix_hits" not in made


def test_outside_ray_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    ray.shutdown()  # another test's
    monkeypatch.setattr(metrics, "_made", {})
    metrics.count("pairs_judged", 3, category="RETAIN")
    assert "pairs_judged" not in metrics._made


def test_a_name_that_is_not_in_the_table_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_in_ray", lambda: True)
    with pytest.raises(KeyError):
        metrics.count("pairs_juged", 1)
