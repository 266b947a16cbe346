"""When the evaluating judge counts as the triaging one."""

from __future__ import annotations

from dataclasses import replace

from trace_ray.config import JudgeConfig
from trace_ray.evaluate.stage import same_judge


def test_only_a_model_that_errs_alike_is_the_same_judge() -> None:
    judge = JudgeConfig(model="a", revision="1")
    assert same_judge(judge, replace(judge, num_cpus=9, batch_rows=1))
    assert not same_judge(judge, replace(judge, model="b"))
    assert not same_judge(judge, replace(judge, revision="2"))
    rules = JudgeConfig(backend="rules")
    assert not same_judge(rules, rules)
