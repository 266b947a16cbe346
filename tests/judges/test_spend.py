"""What endpoints cost, by hand."""

from __future__ import annotations

from trace_ray.config import EndpointConfig, JudgeConfig, TriageConfig
from trace_ray.judges.spend import Spend, spent

DEAR = JudgeConfig(backend="openai", endpoint=EndpointConfig(prompt_price=2.0, answer_price=10.0))
FREE = JudgeConfig(backend="openai")
USED = {
    "requests": 3,
    "endpoint_tokens": 1_000_000,
    "endpoint_written": 100_000,
    "second_requests": 4,
    "second_endpoint_tokens": 500_000,
    "second_endpoint_written": 500_000,
}


def test_each_judge_has_its_own_price() -> None:
    dear = 0.9 * 2 + 0.1 * 10
    assert spent(TriageConfig(judge=DEAR), USED) == Spend(3, 1_000_000, dear)
    assert spent(TriageConfig(judge=DEAR, second_judge=FREE), USED) == Spend(7, 1_500_000, dear)
    assert spent(TriageConfig(judge=DEAR, second_judge=DEAR), USED) == Spend(7, 1_500_000, dear + 5)
    assert spent(TriageConfig(judge=FREE, second_judge=DEAR), USED) == Spend(7, 1_500_000, 5)


def test_what_has_no_price_has_no_cost_and_what_is_no_endpoint_is_not_told() -> None:
    assert spent(TriageConfig(judge=FREE), USED) == Spend(3, 1_000_000, None)
    assert str(Spend(1234, 1_000_000, None)) == "1,234 requests, 1.00 M tokens"
    assert spent(TriageConfig(judge=JudgeConfig(backend="rules")), USED) is None
