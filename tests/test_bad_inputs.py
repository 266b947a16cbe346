"""Mistakes that users make, and the one line that each prints: where, what was seen, what to do. Nothing is started."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from trace_ray.config_load import check_needed, conf_folder, load_config
from trace_ray.errors import UserError
from trace_ray.plan.plan import make_plan
from trace_ray.synth.demo import __file__ as demo_file

DEMO = conf_folder() / "examples" / "demo.yaml"
MODELS = Path(demo_file).with_name("models")
MODEL = [f"model.path='{MODELS / 'policy'}'", f"triage.judge.model='{MODELS / 'judge'}'"]
GIVEN = [
    "plan.measure=false",
    *(f"plan.{name}_tokens_s=1000" for name in ("judge", "answer", "forward", "train")),
]
PAIRS = [{"prompt": f"p {i}", "chosen": "word " * 60, "rejected": "short"} for i in range(4)]


def mistakes(tmp_path: Path, *overrides: str, lines: list[str] | None = None) -> list[str]:
    """Returns the lines that the configuration, or else the plan, has for a corpus of PAIRS or of ``lines``."""
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(lines if lines is not None else map(json.dumps, PAIRS)) + "\n")
    files = [DEMO, conf_folder() / "policies" / "brevity.yaml"]
    try:
        config = load_config(files, [f"corpus.paths=['{file}']", *MODEL, *GIVEN, *overrides])
        check_needed(config, ["triage", "impact", "realign", "evaluate"])
    except UserError as error:
        return [str(error)]
    return [str(problem) for problem in make_plan(config, None).problems]


def test_without_a_mistake_there_is_none(tmp_path: Path) -> None:
    assert mistakes(tmp_path) == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("realign.learing_rate=1", "did you mean 'learning_rate'"),
        ("realing.workers=1", "did you mean 'realign'"),
        ("realign.workers=two", "realign.workers"),
        ("realign.workers=0", "realign.workers: 0: give at least 1"),
        ("triage.judge.backend=vlm", "did you mean 'vllm'"),
        ("triage.threshold=1.5", "triage.threshold: 1.5: give a probability in (0, 1)"),
        ("corpus.paths=[]", "corpus.paths: empty"),
        ("corpus.paths=[nowhere/*.jsonl]", "corpus.paths: nowhere/*.jsonl: no such file"),
        ("corpus.paths=['ftp://host/pairs.jsonl']", "use a local path or s3://"),
        ("model.path=", "model.path: empty"),
        ("model.path=/nowhere/model", "model.path: /nowhere/model: no tokenizer there"),
        ("triage.judge.model=/nowhere/judge", "/nowhere/judge: no tokenizer there"),
        ("realign.use_gpu=true", "realign: 1 GPU: the cluster has 0"),
        ("realign.workers=900", "realign: 1800 CPU: the cluster has"),
        ("policy.clauses=[]", "has no clause with a rule"),
        ("objective.PUNISH={loss: dpo, prefer: corrected, suppress: [chosen]}", "no response is corrected unless"),
        ("objective.INVERT={loss: npo, prefer: chosen, suppress: [rejected]}", "npo takes no preferred response"),
        ("plan.train_tokens_s=0", "give plan.train_tokens_s"),
        ("no_equals_sign", "write it as key.path=value"),
    ],
)
def test_a_wrong_setting(tmp_path: Path, override: str, said: str) -> None:
    found = mistakes(tmp_path, override)
    assert len(found) == 1
    assert said in found[0]
    assert "\n" not in found[0]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "none of the sampled rows is a preference pair"),
        (["{broken", "[1, 2]"], "none of the sampled rows is a preference pair"),
        ([json.dumps({"prompt": "p", "chosen": "short", "rejected": "word " * 60})], "no sampled pair conflicts"),
    ],
)
def test_a_wrong_corpus(tmp_path: Path, lines: list[str], said: str) -> None:
    found = mistakes(tmp_path, lines=lines)
    assert len(found) == 1
    assert said in found[0]


def test_a_cut_gzip_file(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl.gz"
    file.write_bytes(gzip.compress("".join(json.dumps(one) + "\n" for one in PAIRS * 500).encode())[:-20])
    (found,) = mistakes(tmp_path, f"corpus.paths=['{file}']")
    assert "cannot be read to its end" in found
