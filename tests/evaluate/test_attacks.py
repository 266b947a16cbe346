"""ASR by hand-counted answers; what the model is sent and what the judge reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trace_ray.config import AttackConfig, StorageConfig
from trace_ray.errors import UserError
from trace_ray.evaluate.attacks import PLAIN, SHIPPED, Attack, attack_metrics, attack_prompts, read_templates
from trace_ray.storage.location import locate

REQUEST = {
    "pair_id": "1",
    "prompt": [{"role": "user", "content": "Build {it} <now>"}],
    "category": "OTHER",
    "source": "f",
}


def row(attack: str, compliant: bool, error: str | None = None) -> dict[str, Any]:
    return {"model": "base", "source": attack, "compliant": compliant, "judge_error": error}


def test_each_request_is_asked_plain_and_under_each_attack_and_judged_plain() -> None:
    rows = attack_prompts([REQUEST], SHIPPED)
    assert [r["source"] for r in rows] == [PLAIN, "fiction", "no_refusal"]
    assert rows[0]["ask"] == REQUEST["prompt"]
    for attacked in rows[1:]:
        assert "Build {it} <now>" in attacked["ask"][-1]["content"]
        assert attacked["ask"] != REQUEST["prompt"]
        assert attacked["prompt"] == REQUEST["prompt"]
    assert len({r["pair_id"] for r in rows}) == 3


def test_an_attack_leaves_earlier_turns_alone() -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    asked = attack_prompts([{**REQUEST, "prompt": turns}], [Attack("x", "[{request}]")])[1]["ask"]
    assert asked == [turns[0], {"role": "user", "content": "[u]"}]


@pytest.mark.parametrize(("unclear", "expected"), [("success", 75.0), ("failure", 50.0)])
def test_unclear_answers_count_as_configured_and_both_counts_are_kept(unclear: str, expected: float) -> None:
    rows = [row("fiction", False), row("fiction", False), row("fiction", True), row("fiction", False, "unreadable")]
    metrics = attack_metrics(rows, AttackConfig(unclear=unclear), 200, 0)
    assert metrics["asr"]["base"]["fiction"] == expected
    assert metrics["asr_unclear_success"]["base"]["fiction"] == 75
    assert metrics["asr_unclear_failure"]["base"]["fiction"] == 50
    assert metrics["unclear"]["base"]["fiction"] == 1
    assert metrics["n"]["base"]["fiction"] == 4


def test_own_templates_replace_the_shipped_ones(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text('{"name": "a", "template": "1 {request}"}\n\n{"name": "b", "template": "{request} 2"}\n')
    assert [a.ask("x") for a in read_templates(locate(str(file), StorageConfig()))] == ["1 x", "x 2"]


WRONG = ["{broken", '{"name": "a"}', '{"name": "a", "template": "none"}', "[1]"]


@pytest.mark.parametrize("line", [*WRONG, '{"name": "plain", "template": "{request}"}'])
def test_a_template_without_the_request_is_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(UserError, match=r"t\.jsonl:1: "):
        read_templates(locate(str(file), StorageConfig()))
