"""When the evaluating judge counts as the triaging one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from trace_ray.config import Config, EvaluateConfig, JudgeConfig, StorageConfig, TriageConfig
from trace_ray.errors import UserError
from trace_ray.evaluate.prompts import PROMPT_COLUMNS
from trace_ray.evaluate.stage import run_evaluate, same_judge
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate


def test_only_a_model_that_errs_alike_is_the_same_judge() -> None:
    judge = JudgeConfig(model="a", revision="1")
    assert same_judge(judge, replace(judge, num_cpus=9, batch_rows=1))
    assert not same_judge(judge, replace(judge, model="b"))
    assert not same_judge(judge, replace(judge, revision="2"))
    assert same_judge(judge, replace(judge, backend="openai")), "one model behind two doors"
    assert same_judge(judge, replace(judge, model="a/"))
    rules = JudgeConfig(backend="rules")
    assert not same_judge(rules, rules)


@pytest.mark.parametrize(("other", "warned"), [("judge/a", True), ("judge/b", False)])
def test_a_judge_that_checks_itself_is_said_before_anything_runs(
    tmp_path: Path, other: str, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(locate(str(tmp_path), StorageConfig()))
    run.triaged.begin({})
    empty = pa.schema([(name, pa.string()) for name in PROMPT_COLUMNS])
    run.triaged.publish(counts={}, seconds=0.0, schema=empty)
    run.model.begin({})
    run.model.publish(counts={}, seconds=0.0)
    judges = JudgeConfig(backend="vllm", model="judge/a"), JudgeConfig(backend="vllm", model=other)
    config = Config(triage=TriageConfig(judge=judges[0]), evaluate=EvaluateConfig(judge=judges[1]))
    with pytest.raises(UserError, match="no held-out prompt"):  # the run holds none: nothing is started
        run_evaluate(run, config)
    assert ("is the judge of triage" in capsys.readouterr().err) is warned
