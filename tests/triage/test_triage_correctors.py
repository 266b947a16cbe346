"""A corrector that can correct nothing, and gold responses that cannot be read, are refused before anything is judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trace_ray.config import Config, StorageConfig
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.errors import UserError
from trace_ray.judges.backends import check_corrector, corrector_kind
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate
from trace_ray.triage import stage
from trace_ray.triage.given import with_gold

RULES = "triage.judge.backend=rules"
CORRECT = "triage.correct=true"
GOLD = {"prompt": "q", "chosen": "a b c", "corrected": "a"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": "q", "chosen": "a b c", "rejected": "b"}) + "\n")
    (tmp_path / "gold.jsonl").write_text(json.dumps(GOLD) + "\n")
    return tmp_path


def configured(policy: str, *overrides: str, method: str | None = None) -> Config:
    files = [conf_folder() / "policies" / f"{policy}.yaml"]
    return load_config(files, ["corpus.paths=[pairs.jsonl]", *overrides], method)


@pytest.mark.parametrize(
    ("policy", "overrides", "said"),
    [
        ("brevity", ["triage.corrector=judge"], "triage.corrector: judge: triage.judge.backend=rules"),
        ("synth_new", [], "triage.corrector: auto: no rule of the policy has max_words"),
        ("synth_new", ["triage.corrector=code"], "triage.corrector: code: no rule of the policy has max_words"),
        ("brevity", ["triage.corrector_judge={backend: rules}"], "triage.corrector_judge.backend: rules"),
        ("brevity", ["triage.gold_responses=none.jsonl"], "triage.gold_responses: none.jsonl: no such file"),
        (
            "brevity",
            ["triage.gold_responses=pairs.jsonl"],
            'pairs.jsonl:1: {"prompt": "q", "chosen": "a b c", "rejected": "b"}: it holds one {prompt, chosen, corrected}',
        ),
        ("brevity", ["triage.gold_responses=number.jsonl"], "number.jsonl:1: {"),
        ("brevity", ["triage.audit_labels=pairs.jsonl"], "triage.audit_labels: "),
        ("brevity", ["triage.review_labels=pairs.jsonl"], "triage.review_labels: "),
        ("brevity", ["triage.audit_file=pairs.jsonl"], "triage.audit_file: "),
        ("brevity", ["triage.audit_file=audit.json"], "audit.json: no audit with a decision"),
        (
            "brevity",
            ["triage.audit_file=clauses.json", "triage.judge.backend=vllm", "triage.judge.model=m"],
            "clauses.json: it goes by clause, and these verdicts tell of none",
        ),
    ],
)
def test_what_can_correct_nothing_is_refused_before_anything_begins(
    here: Path, monkeypatch: pytest.MonkeyPatch, policy: str, overrides: list[str], said: str
) -> None:
    monkeypatch.setattr(stage, "ensure_ray", lambda _: pytest.fail("a cluster was started"))
    (here / "number.jsonl").write_text(json.dumps(GOLD | {"corrected": 3}) + "\n")
    decision = {"calibration": {"kind": "none"}, "threshold": "high", "band": 0.1}
    (here / "audit.json").write_text(json.dumps({"decision": decision}))
    fit = {"calibration": {"kind": "none"}, "band": 0.0}
    grouped = {"calibration": {"kind": "none"}, "threshold": 0.5, "band": 0.1, "by": "clause", "groups": {"": fit}}
    (here / "clauses.json").write_text(json.dumps({"decision": grouped}))
    run = Run(locate(str(here / "run"), StorageConfig()))
    with pytest.raises(UserError) as refused:
        stage.run_triage(run, configured(policy, RULES, CORRECT, *overrides))
    assert said in str(refused.value)
    assert not (here / "run").exists()


@pytest.mark.parametrize(
    ("policy", "overrides", "kind"),
    [
        ("brevity", [RULES, CORRECT], "code"),
        ("synth_new", [RULES, CORRECT, "triage.gold_responses=gold.jsonl"], "gold"),
        ("synth_new", ["triage.judge.model=m", CORRECT], "judge"),
        ("synth_new", [RULES, CORRECT, "triage.corrector_judge={backend: vllm, model: m}"], "other"),
        ("synth_new", [RULES, "triage.corrector=judge"], "none"),
    ],
)
def test_what_can_correct_is_left_alone(policy: str, overrides: list[str], kind: str) -> None:
    config = configured(policy, *overrides)
    check_corrector(config.policy, config.triage)
    assert corrector_kind(config.policy, config.triage) == kind


def test_workers_are_given_the_full_address_of_gold_responses(here: Path) -> None:
    gold = ["triage.gold_responses=gold.jsonl"]
    given = with_gold(configured("synth_new", RULES, *gold, method="dpo_gold"))
    assert given.gold_responses == str(here / "gold.jsonl")
    assert with_gold(configured("synth_new", RULES, *gold)).gold_responses == "gold.jsonl"  # corrects nothing
