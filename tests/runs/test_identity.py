"""What a stage's inputs say about files behind a name: models, corpora of like-named files, gold responses."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.pieces import PIECES, leave
from trace_ray.config import Config, JudgeConfig, StorageConfig
from trace_ray.config.load import load_config
from trace_ray.corpus.sources import corpus_sources
from trace_ray.errors import StaleRunError
from trace_ray.evaluate.stage import evaluate_inputs
from trace_ray.impact.stage import impact_inputs
from trace_ray.pipeline import run_stages
from trace_ray.realign.stage import realign_inputs
from trace_ray.runs.artifacts import Run
from trace_ray.runs.identity import model_identity
from trace_ray.storage.location import locate
from trace_ray.triage.inputs import triage_inputs

PLAIN = StorageConfig()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of which everything is published, from nothing."""
    made = Run(locate(str(tmp_path / "run"), PLAIN))
    for artifact in (made.triaged, made.scored, made.model):
        artifact.begin({})
        artifact.publish(counts={}, seconds=0.0)
    return made


def config_of(*overrides: str) -> Config:
    return load_config([], ["policy.text=Be brief.", *overrides])


def triage_inputs_of(config: Config) -> dict[str, object]:
    return triage_inputs(config, corpus_sources(config.corpus, config.storage))


def test_a_hub_model_is_its_name_and_a_folder_its_files(model: Path, tmp_path: Path) -> None:
    assert model_identity("org/name", "v2", PLAIN) == "org/name@v2"
    assert model_identity("", "main", PLAIN) == ""
    before = model_identity(str(model), "main", PLAIN)
    model.rename(tmp_path / "moved")
    assert model_identity(str(tmp_path / "moved"), "main", PLAIN) == before
    (tmp_path / "moved" / "model.safetensors").write_bytes(b"WEIGHTS")
    assert model_identity(str(tmp_path / "moved"), "main", PLAIN) != before


def test_a_model_in_s3_is_its_listing(s3: StorageConfig) -> None:
    place = locate(f"s3://lake/{uuid.uuid4().hex}", s3)
    seen = []
    for weights in (b"weights", b"WEIGHTS", b"weights"):
        (place / "model.safetensors").write_bytes(weights)
        seen.append(model_identity(place.uri, "main", s3))
    assert seen[0] == seen[2] != seen[1]


@pytest.mark.parametrize("where", ["local", "s3"])
def test_a_mended_generation_config_and_a_card_leave_a_model_what_it_is(
    where: str, model: Path, s3: StorageConfig
) -> None:
    """A run begun with Llama-2-chat's contradiction goes on after it is mended; another stop token is another model."""
    place = locate(str(model) if where == "local" else f"s3://lake/{uuid.uuid4().hex}", s3)
    (place / "model.safetensors").write_bytes(b"weights")

    def seen(card: str, generation: str) -> str:
        (place / "README.md").write_text(card)
        (place / "generation_config.json").write_text(generation)
        return model_identity(place.uri, "main", s3)

    begun = seen("# old", '{"temperature": 0.9, "eos_token_id": 2}')
    assert seen("# new", '{"temperature": 0.9, "do_sample": true, "eos_token_id": 2}') == begun
    assert seen("# new", '{"eos_token_id": [2, 3]}') != begun
    assert seen("# new", "{") != begun


def test_a_model_that_changed_in_its_folder_is_another_input(run: Run, model: Path) -> None:
    judge = JudgeConfig(backend="vllm", model=str(model))
    config = config_of(f"model.path={model}")
    judged = config_of(
        "triage.correct=true", "triage.judge.backend=openai", "triage.judge.endpoint.base_url=http://h/v1"
    )
    judged = replace(judged, evaluate=replace(judged.evaluate, judge=judge), corpus=config.corpus)
    judged = replace(judged, triage=replace(judged.triage, corrector_judge=judge))

    def found() -> list[object]:
        stages = [impact_inputs(run, config), realign_inputs(run, config), evaluate_inputs(run, config)]
        return [*stages, evaluate_inputs(run, judged), triage_inputs(judged, [])]

    before = found()
    (model / "model.safetensors").write_bytes(b"WEIGHTS")
    assert [old == other for old, other in zip(before, found(), strict=True)] == [False] * 5


def test_a_task_file_that_changed_is_another_input_of_the_evaluation(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text("task: mine")
    config = config_of(f"model.path={model}", f"evaluate.capability.task_folder={tmp_path}/tasks")
    before = evaluate_inputs(run, config)
    (tmp_path / "tasks" / "mine.yaml").write_text("task: mine\nnum_fewshot: 3")
    assert evaluate_inputs(run, config) != before


def test_a_model_that_changed_between_two_stages_is_refused(run: Run, model: Path) -> None:
    config = config_of(f"model.path={model}")
    run.impact.begin(impact_inputs(run, config))
    leave(run, PIECES["impact"])
    (model / "model.safetensors").write_bytes(b"WEIGHTS")
    with pytest.raises(StaleRunError, match="model files"):
        run_stages(run, config, ["realign"])


def test_each_of_a_corpus_like_named_files_counts(tmp_path: Path) -> None:
    """HH-RLHF has a train.jsonl.gz in each of its folders."""
    files = [tmp_path / name / "train.jsonl" for name in ("harmless", "helpful")]
    for file in files:
        file.parent.mkdir()
        file.write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": file.parent.name}))
    config = config_of(f"corpus.paths=['{tmp_path}/*/train.jsonl']")
    before = triage_inputs_of(config)
    assert sum(name.startswith("corpus file ") for name in before) == 2
    files[0].write_text("{}")
    assert triage_inputs_of(config) != before


def test_gold_responses_are_their_content(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("{}")
    gold = tmp_path / "gold.jsonl"
    gold.write_text("first")
    paths = [f"corpus.paths=['{tmp_path}/pairs.jsonl']", "triage.correct=true"]
    before = triage_inputs_of(config_of(*paths, f"triage.gold_responses={gold}"))
    moved = gold.rename(tmp_path / "moved.jsonl")
    assert triage_inputs_of(config_of(*paths, f"triage.gold_responses={moved}")) == before
    moved.write_text("second")
    assert triage_inputs_of(config_of(*paths, f"triage.gold_responses={moved}")) != before
