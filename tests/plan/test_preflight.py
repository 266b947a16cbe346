"""What a later stage would stop at is found before the first begins, and of the stages asked for alone."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import BloomConfig, GPT2Config, LlamaConfig

from trace_ray.config import Config, StorageConfig
from trace_ray.config.load import load_config
from trace_ray.errors import UserError
from trace_ray.model.context import context_length
from trace_ray.pipeline import run_stages
from trace_ray.plan.preflight import preflight
from trace_ray.runs.artifacts import STAGES, Run
from trace_ray.storage.location import locate
from trace_ray.synth.demo import __file__ as demo_file

MODELS = Path(demo_file).with_name("models")
CONTEXT = 1024


def config_of(*overrides: str) -> Config:
    """A rules policy, the shipped models, nothing wrong."""
    rules = "policy.clauses=[{id: brief, text: Be brief., rule: {max_words: 9}}]"
    judges = ["triage.judge.backend=rules", "evaluate.judge.backend=rules", "evaluate.max_new_tokens=64"]
    return load_config([], [rules, *judges, f"model.path='{MODELS / 'policy'}'", "corpus.paths=[x.jsonl]", *overrides])


def said(config: Config, stages: tuple[str, ...] = STAGES) -> list[str]:
    return [str(problem) for problem in preflight(config, stages)]


def changed(folder: Path, file: str, **values: Any) -> Path:
    """A copy of the shipped policy model, a value of one of its JSON files changed; None takes it out."""
    shutil.copytree(MODELS / "policy", folder)
    place = folder / file
    stored = json.loads(place.read_text()) if place.exists() else {}
    place.write_text(json.dumps({name: value for name, value in (stored | values).items() if value is not None}))
    return folder


def test_nothing_is_said_where_nothing_is_wrong() -> None:
    judge = f"{{backend: vllm, model: '{MODELS / 'judge'}', max_model_len: {CONTEXT}}}"
    config = config_of(f"model.max_length={CONTEXT - 64}", f"triage.judge={judge}", f"evaluate.judge={judge}")
    assert said(config) == []


@pytest.mark.parametrize(
    ("overrides", "stages", "expected"),
    [
        ([f"model.max_length={CONTEXT}"], ("impact", "realign"), ""),
        (
            [f"model.max_length={CONTEXT}"],
            STAGES,
            f"with evaluate.max_new_tokens = 64 after a prompt it is more than the {CONTEXT} tokens that",
        ),
        ([f"model.max_length={CONTEXT + 1}"], ("realign",), f"sees {CONTEXT} tokens at once: give fewer"),
        (["model.max_length=1000", "evaluate.engine={max_model_len: 1024}"], STAGES, ""),
        (
            ["model.max_length=1000", "evaluate.engine={max_model_len: 1025}"],
            STAGES,
            "evaluate.engine.max_model_len: 1025",
        ),
        (["model.max_length=1000", "evaluate.engine={max_model_len: 1000}"], STAGES, "prompts have up to"),
        (["model.max_length=1000", "evaluate.engine={hf_overrides: {max_position_embeddings: 4096}}"], STAGES, ""),
    ],
)
def test_what_is_read_and_written_fits_the_models_context(
    overrides: list[str], stages: tuple[str, ...], expected: str
) -> None:
    problems = said(config_of(*overrides), stages)
    assert len(problems) == bool(expected)
    assert expected in "".join(problems)


@pytest.mark.parametrize("name", ["triage.judge", "triage.first_judge", "triage.second_judge", "evaluate.judge"])
def test_a_judges_prompts_fit_its_context(name: str) -> None:
    judge = f"backend: vllm, model: '{MODELS / 'judge'}'"
    stages = (name.split(".", maxsplit=1)[0],)
    config = config_of(f"{name}={{{judge}, max_model_len: 1025}}")
    assert said(config, stages) == [
        f"{name}.max_model_len: 1025: this judge sees {CONTEXT} tokens at once: give at most that"
    ]
    assert said(config, ("realign",)) == []
    config = config_of(f"{name}={{{judge}, engine: {{max_model_len: 9999}}}}")
    assert said(config, stages)[0].startswith(f"{name}.engine.max_model_len: 9999: ")


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (LlamaConfig(max_position_embeddings=77), 77),
        (GPT2Config(n_positions=33), 33),
        (BloomConfig(), None),
        (LlamaConfig(max_position_embeddings=100, rope_scaling={"rope_type": "linear", "factor": 4.0}), 400),
        (
            LlamaConfig(
                max_position_embeddings=100,
                rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 25},
            ),
            100,
        ),
    ],
    ids=["llama", "gpt2", "bloom", "linear", "yarn"],
)
def test_the_context_is_where_the_family_keeps_it(known: Any, expected: int | None) -> None:
    assert context_length(known) == expected


@pytest.mark.parametrize(
    ("make", "stages", "expected"),
    [
        (lambda at: changed(at, "config.json", model_type=None), ("impact",), "model.path: "),
        (
            lambda at: changed(at, "generation_config.json", max_new_tokens=-5),
            ("realign",),
            "mend its generation_config",
        ),
    ],
    ids=["no configuration", "generation"],
)
def test_a_models_folder_is_looked_at(
    tmp_path: Path, make: Callable[[Path], Path], stages: tuple[str, ...], expected: str
) -> None:
    config = config_of(f"model.path='{make(tmp_path / 'model')}'")
    (problem,) = said(config, stages)
    assert expected in problem
    assert said(config, ("triage",)) == []


@pytest.mark.parametrize(
    ("override", "stage"),
    [
        ("evaluate.prompt_file=nowhere.csv", "evaluate"),
        ("evaluate.attacks.prompts=nowhere.csv", "evaluate"),
        ("triage.review_labels=nowhere.jsonl", "triage"),
        ("triage.verdict_store=tests/conftest.py", "triage"),
        ("realign.trackers=[mlflow]", "realign"),
    ],
)
def test_what_a_later_stage_needs_is_looked_for_at_once(
    monkeypatch: pytest.MonkeyPatch, override: str, stage: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == "mlflow" else find(name, *more))
    config = config_of(override)
    (problem,) = said(config)
    assert problem.startswith(override.partition("=")[0])
    assert said(config, tuple({*STAGES} - {stage})) == []


def test_a_run_stops_before_its_first_stage_and_claims_nothing(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": "p", "chosen": "a b", "rejected": "c"}))
    run = Run(locate(str(tmp_path / "run"), StorageConfig()))
    config = config_of(f"corpus.paths=['{tmp_path / 'pairs.jsonl'}']", f"model.max_length={CONTEXT}")
    with pytest.raises(UserError, match=r"model\.max_length"):
        run_stages(run, config)
    assert not any(folder.place.exists() for stage in STAGES for folder in run.made_by(stage))
    assert not (run.place / "config.yaml").exists()
