"""Two rounds of the demo's world, tiny models on a real local Ray: what the second is made of, and its driver killed."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.killing import kill_when
from trace_ray.config import Config, StorageConfig
from trace_ray.config.load import load_text
from trace_ray.pairs import categorise, prompt_text
from trace_ray.runs.artifacts import Run
from trace_ray.runs.rounds import round_run
from trace_ray.storage.location import locate
from trace_ray.synth.oracle import violates

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

SETTINGS = [
    "triage.judge.backend=rules",
    "triage.judge.model=''",
    "impact.gold_size=9",
    "impact.shard_rows=64",
    "realign.learning_rate=1e-3",
    "realign.batch=8",
    "realign.checkpoint_steps=5",
    "evaluate.prompts=12",
    "evaluate.drift_pairs=8",
    "corpus.limit=160",
]
DEADLINE_SECONDS = 3000.0


def command(folder: Path, rounds: int) -> list[str]:
    words = [sys.executable, "-m", "trace_ray.cli", "demo", *SETTINGS, f"rounds.number={rounds}"]
    return [*words, "--run", str(folder)]


def finish(folder: Path, rounds: int) -> str:
    ended = subprocess.run(
        command(folder, rounds), check=True, timeout=DEADLINE_SECONDS, stdout=subprocess.PIPE, text=True
    )
    return ended.stdout


def opened(folder: Path) -> Run:
    return Run(locate(str(folder), StorageConfig()))


def digests(folder: Path) -> dict[str, str]:
    """Contents of a run's artefacts; not what each call writes anew, such as the report and the trackers' curves."""
    names = ("rejects", "triaged", "impact", "scored", "realign/checkpoints", "model", "evaluation")
    files = [file for name in names for file in sorted((folder / name).rglob("*")) if file.is_file()]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one round."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert "target policy agreement" not in finish(folder, 1)
    return folder


@pytest.fixture(scope="module")
def whole(alone: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The same run, gone on with to a second round, and what the terminal said."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(alone, folder)
    return folder, finish(folder, 2)


def test_one_round_makes_no_folder_of_rounds_and_more_leave_it_as_it_is(alone: Path, whole: tuple[Path, str]) -> None:
    assert not (alone / "rounds").exists()
    assert not (alone / "answers").exists()
    assert digests(whole[0]) == digests(alone)


def test_what_is_chosen_is_the_greedy_answer_of_the_model_before_by_transformers(whole: tuple[Path, str]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _ = whole
    rows = train_rows(folder, 2)
    merged = folder / "model" / "merged"
    tokenizer = AutoTokenizer.from_pretrained(merged)
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()
    limit = settings_of(folder).evaluate.max_new_tokens
    for row in rows:
        ids = tokenizer.apply_chat_template(
            row["prompt"], add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        with torch.inference_mode():
            made = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=limit, num_beams=1
            )
        assert row["chosen"] == tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True), row["prompt"]


def train_rows(folder: Path, number: int) -> list[dict[str, Any]]:
    return [row for row in rows_of(folder, number) if row["split"] == "train"]


def rows_of(folder: Path, number: int) -> list[dict[str, Any]]:
    return list(round_run(opened(folder), number).triaged.read().to_pylist())


def settings_of(folder: Path, number: int = 1) -> Config:
    place = round_run(opened(folder), number).place / "config.yaml"
    return load_text(place.read_text(), place.uri)


def test_prompts_stay_in_their_split_and_none_is_lost(whole: tuple[Path, str]) -> None:
    folder, _ = whole
    asked = {json.dumps(row["prompt"]) for row in train_rows(folder, 1)}
    trained = [json.dumps(row["prompt"]) for row in train_rows(folder, 2)]
    counts = round_run(opened(folder), 2).answers.manifest()["counts"]
    left = ("identical_answers", "no_whole_sample", "empty_answers", "refused_prompts")
    assert counts["prompts"] == len(asked) == counts["pairs"] + sum(counts[name] for name in left)
    assert len(trained) == len(set(trained)) == counts["pairs"]
    assert set(trained) <= asked
    held_out = [
        {row["pair_id"]: row["category"] for row in rows_of(folder, k) if row["split"] == "test"} for k in (1, 2)
    ]
    assert held_out[0] == held_out[1]
    manifest = round_run(opened(folder), 2).triaged.manifest()["counts"]
    assert manifest["rows_in"] == manifest["triaged"] + manifest["rejects"] == counts["pairs"] + counts["held_out"]


def test_verdicts_and_the_choice_among_drawn_answers_are_the_oracle_s(whole: tuple[Path, str]) -> None:
    folder, _ = whole
    generated = [
        row
        for file in sorted((folder / "rounds" / "2" / "answers" / "generated").glob("*.parquet"))
        for row in locate(str(file), StorageConfig()).read_parquet().to_pylist()
    ]
    drawn = {json.dumps(row["prompt"]): row for row in generated}
    assert len({row["greedy"] for row in generated}) > 10
    for row in train_rows(folder, 2):
        said = drawn[json.dumps(row["prompt"])]
        text = prompt_text(row["prompt"])
        bad = {answer: violates(text, answer) for answer in (row["chosen"], *said["samples"])}
        others = [answer for answer in said["samples"] if answer.split() != row["chosen"].split()]
        assert row["rejected"] == min(others, key=lambda answer: bad[answer])
        assert row["category"] == categorise(not bad[row["chosen"]], not bad[row["rejected"]])


def answers(folder: Path, number: int, model: str) -> dict[str, str]:
    place = round_run(opened(folder), number).evaluation.place / "responses"
    rows = [row for file in place.files(".parquet") for row in file.read_parquet().to_pylist()]
    return {row["pair_id"]: row["response"] for row in rows if row["model"] == model}


def test_each_round_is_evaluated_on_the_same_prompts_from_the_model_before_it(whole: tuple[Path, str]) -> None:
    folder, _ = whole
    assert len(answers(folder, 1, "base")) == 12
    assert answers(folder, 2, "base") == answers(folder, 1, "realigned")
    assert round_run(opened(folder), 2).model.manifest()["base model"] == f"{folder}/model/merged"


def test_the_last_line_compares_the_rounds_and_each_has_its_report(whole: tuple[Path, str]) -> None:
    folder, said = whole
    tpa = [json.loads((folder / part / "evaluation" / "metrics.json").read_text())["tpa"] for part in ("", "rounds/2")]
    figures = (tpa[0]["base"]["all"], tpa[0]["realigned"]["all"], tpa[1]["realigned"]["all"])
    last = "target policy agreement, %: before {:.1f}, round 1 {:.1f}, round 2 {:.1f}".format(*figures)
    assert said.splitlines()[-1] == last
    assert "round 2" in said
    for part in (folder, folder / "rounds" / "2"):
        assert "<html" in (part / "report.html").read_text()


def test_a_round_killed_in_its_answers_and_in_its_training_ends_as_if_it_never_were(
    alone: Path, whole: tuple[Path, str], tmp_path: Path
) -> None:
    folder, further = tmp_path / "run", tmp_path / "run" / "rounds" / "2"
    shutil.copytree(alone, folder)
    pieces = further / "answers" / "generated"
    kill_when(command(folder, 2), lambda: any(pieces.glob("part-*.parquet")), DEADLINE_SECONDS)
    assert not (further / "answers" / "_DONE").exists()
    finished = {file.name: file.stat().st_mtime_ns for file in pieces.glob("part-*.parquet")}
    trained = further / "realign" / "checkpoints"
    reached = "checkpoint_*/adapter/adapter_model.safetensors"
    kill_when(command(folder, 2), lambda: any(trained.glob(reached)), DEADLINE_SECONDS)
    assert not (further / "realign" / "_DONE").exists()
    triaged = (further / "triaged" / "_DONE").stat().st_mtime_ns
    finish(folder, 2)
    for name, written in finished.items():
        assert (pieces / name).stat().st_mtime_ns == written, "a finished piece was made again"
    assert (further / "triaged" / "_DONE").stat().st_mtime_ns == triaged
    assert digests(folder) == digests(alone)
    mine, theirs = ({row["row"]: row for row in rows_of(one, 2)} for one in (folder, whole[0]))
    assert mine == theirs
    file = Path("rounds") / "2" / "model" / "adapter" / "adapter_model.safetensors"
    kept, expected = load_file(folder / file), load_file(whole[0] / file)
    for name, value in expected.items():
        torch.testing.assert_close(kept[name], value, rtol=1e-3, atol=2e-5)
