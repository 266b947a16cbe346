"""What a probe runs: every pair once, no more tokens than the machine does in seconds, and the memory of a run's own."""

from __future__ import annotations

import itertools

import pytest

from trace_ray.model.packing import Packed
from trace_ray.plan import units
from trace_ray.plan.units import Unit, affordable, forward_units, rate, training_units, whole_peak

PAIRS = [[Packed([1] * prompt, ([2] * n,)) for n in (5 + prompt, 9)] for prompt in (3, 11, 30, 7, 19)]
TOKENS = sum(len(row) for pair in PAIRS for row in pair)


def padded(unit: Unit) -> int:
    return sum(len(group) * max(map(len, group)) for group in unit.groups)


@pytest.mark.parametrize("budget", [1, 40, 10**6])
def test_every_sequence_is_run_once_within_the_budget(budget: int) -> None:
    sequences = [row for pair in PAIRS for row in pair]
    found = forward_units(sequences, budget)
    assert sorted(id(row) for unit in found for group in unit.groups for row in group) == sorted(map(id, sequences))
    assert sum(unit.tokens for unit in found) == TOKENS
    assert all(padded(unit) <= budget or len(unit.groups[0]) == 1 for unit in found)


@pytest.mark.parametrize("budget", [1, 60, 10**6])
def test_a_training_step_is_its_pairs_and_a_shared_prompt_counts_with_each_response(budget: int) -> None:
    joined = [[Packed(pair[0].prompt_ids, tuple(row.response_ids[0] for row in pair))] for pair in PAIRS]
    for pairs in (PAIRS, joined):
        found = training_units(pairs, 2, budget, 0)
        rows = [id(row) for unit in found for group in unit.groups for row in group]
        assert sorted(rows) == sorted(id(row) for pair in pairs for row in pair)
        assert sum(unit.tokens for unit in found) == TOKENS
    assert len(training_units(PAIRS, 2, 10**6, 0)) == 3, "five pairs are three steps of two"


def test_a_slow_machine_is_timed_on_few_tokens_and_a_quick_one_on_a_runs_own() -> None:
    assert affordable(4096, units.PATIENCE_S / 10_000) == 4096
    assert affordable(4096, units.PATIENCE_S / 1000) == 1000
    assert affordable(4096, units.PATIENCE_S) == units.LEAST_TOKENS
    assert affordable(64, units.PATIENCE_S) == 64


def test_the_rate_is_of_what_was_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second a look: the first is the start, and the third unit is the first after more than two seconds."""
    ticks = itertools.count()
    monkeypatch.setattr(units, "perf_counter", lambda: next(ticks))
    some = [Unit([], n) for n in (10, 20, 60)]
    seen: list[Unit] = []
    assert rate(seen.append, some, 2.0) == 90 / 3
    assert seen == some


def test_a_whole_forward_holds_more_by_its_tokens() -> None:
    few, many = [Unit([], 100), Unit([], 50)], [Unit([], 400)]
    assert whole_peak(1000, 1300, few, many) == 1000 + 4 * 300
    assert whole_peak(1000, 1300, many, many) == 1300
    assert whole_peak(1000, 900, few, many) == 1000, "a forward that freed more than it took"
