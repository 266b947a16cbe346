from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trace_ray.model.batches import token_batches

LENGTHS = st.lists(st.integers(1, 300), max_size=200)


@given(LENGTHS, st.integers(1, 2000))
def test_every_sequence_once_within_the_budget_and_the_waste(lengths: list[int], max_tokens: int) -> None:
    batches = token_batches(lengths, max_tokens)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= max_tokens
        assert padding_waste(lengths, [batch]) <= 0.05
    assert padding_waste(lengths, batches) <= 0.05


def padding_waste(lengths: list[int], batches: list[list[int]]) -> float:
    """The share of padded tokens that are padding."""
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    return 1 - sum(lengths) / padded if padded else 0.0
