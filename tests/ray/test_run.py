"""A whole run with corpus, models and run folder in S3, on a real local Ray with vLLM, DeepSpeed and the shipped tiny models;
then again, after a change, and after a lost part."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest
import ray
from typer.testing import CliRunner

from tests.support.s3 import CREDENTIALS, S3Server, set_credentials
from trace_ray.chat.text import accepted
from trace_ray.cli.app import app
from trace_ray.config import RealignConfig, StorageConfig
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.errors import StaleRunError
from trace_ray.model.loading import load_chat_tokenizer
from trace_ray.pipeline import run_folder, run_stages
from trace_ray.realign.checkpoints import CHECKPOINTS
from trace_ray.realign.node_copy import ROWS
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import upload_folder
from trace_ray.storage.staging import download_folder
from trace_ray.synth.demo import write_corpus

# The fixture is a whole run: beside ten other busy processes it was still at its last stage after 15 minutes.
pytestmark = pytest.mark.timeout(3600)

HANDLER = signal.getsignal(signal.SIGINT)
"""As it was before any run: Python's own, or none where a shell put the tests in the background."""

DEMO = [conf_folder() / "examples" / "demo.yaml"]
SMALL = ["impact.gold_size=9", "impact.shard_rows=37", "evaluate.prompts=16", "realign.learning_rate=1e-4"]


@pytest.fixture(scope="module")
def finished(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, list[str]]]:
    ray.shutdown()  # workers get the credentials that are there when Ray starts
    with pytest.MonkeyPatch.context() as patch:
        set_credentials(patch, tmp_path_factory.mktemp("cache"))
        s3_server.make_bucket("lake")
        reached = [f"storage.endpoint={s3_server.endpoint}", "storage.region=us-east-1"]
        storage = StorageConfig(endpoint=s3_server.endpoint, region="us-east-1")
        lake = run_folder("s3://lake", storage).place
        overrides = [*write_corpus(lake / "corpus"), *SMALL, *reached]
        train = lake / "corpus" / "train.jsonl"
        lines = train.read_text().splitlines()[:120]
        train.write_text("\n".join([*lines[:50], "{broken", *lines[50:], '{"prompt": "p", "chosen": ""}']) + "\n")
        models = Path(__file__).parents[2] / "trace_ray" / "synth" / "models"
        for name, setting in (("policy", "model.path"), ("judge", "triage.judge.model")):
            upload_folder(_copy(models / name), lake / "models" / name)
            overrides.append(f"{setting}=s3://lake/models/{name}")
        run = run_folder("s3://lake/runs/one", storage)
        run_stages(run, load_config(DEMO, overrides))
        yield run, overrides
    ray.shutdown()


def _copy(source: Path) -> Callable[[str], object]:
    return lambda folder: shutil.copytree(source, folder, dirs_exist_ok=True)


def test_no_row_is_lost(finished: tuple[Run, list[str]]) -> None:
    run, _ = finished
    counts = run.triaged.manifest()["counts"]
    assert counts["rows_in"] == 122 + 128
    assert counts["triaged"] + counts["rejects"] == counts["rows_in"]
    reasons = {row["reason"] for row in run.rejects.read().to_pylist()}
    assert reasons == {"broken_json", "missing_field"}
    rows = run.triaged.read(["row"])["row"].to_pylist()
    assert len(set(rows)) == len(rows) == counts["triaged"]


def test_each_stage_tells_what_it_asked_of_s3(finished: tuple[Run, list[str]]) -> None:
    run, _ = finished
    by_stage = [
        (run.scored, {"survey", "direction", "score"}),
        (run.realign, {"train", "driver"}),
        (run.model, {"export"}),
        (run.evaluation, {"base", "realigned", "judge", "drift", "driver"}),
    ]
    for stage, steps in by_stage:
        told = stage.manifest()["requests"]
        assert set(told) == steps
        assert all(step.keys() & {"get", "put"} for step in told.values()), told
    assert run.realign.manifest()["requests"]["train"]["put"] > 2, "a checkpoint's files"


def test_models_that_were_loaded_are_counted(finished: tuple[Run, list[str]]) -> None:
    run, _ = finished
    assert run.impact.manifest()["model_loads"] >= 1
    assert run.model.manifest()["model_loads"] == 2, "to merge into, and what was written"
    drift = run.evaluation.manifest()["drift"]
    assert (drift["model_loads"], drift["run_as"]["batch_tokens"]) == (1, 4096)


def test_the_judge_agrees_with_the_oracle(finished: tuple[Run, list[str]]) -> None:
    assert finished[0].triaged.manifest()["audit"]["agreement"] >= 0.95


def test_impact_weights_average_one(finished: tuple[Run, list[str]]) -> None:
    table = finished[0].scored.read(["category", "weight", "impact"]).to_pylist()
    conflicts = [row for row in table if row["category"] != "RETAIN"]
    assert sum(row["weight"] for row in conflicts) / len(conflicts) == pytest.approx(1.0)
    assert all((row["weight"] > 0) == (row["impact"] > 0) for row in conflicts)


def test_the_evaluation_holds_what_it_promises(finished: tuple[Run, list[str]]) -> None:
    run, _ = finished
    metrics = json.loads((run.evaluation.place / "metrics.json").read_text())
    rows = [r for p in (run.evaluation.place / "responses").files() for r in p.read_parquet().to_pylist()]
    assert {"prompt", "model", "response", "compliant"} <= set(rows[0])
    for model in ("base", "realigned"):
        mine = [row["compliant"] for row in rows if row["model"] == model]
        assert metrics["tpa"][model]["all"] == pytest.approx(100 * sum(mine) / 16)
    assert metrics["n"]["all"] == 16
    assert run.report.read_text().count("<script") == 1


def test_evaluation_counts_what_its_models_read_and_wrote(finished: tuple[Run, list[str]]) -> None:
    """Rules judge here: the rest are both models' prompts, and answers of which all but the longest end with a token more."""
    run, overrides = finished
    config = load_config(DEMO, overrides)
    tokenizer = load_chat_tokenizer(config.model)
    rows = [r for p in (run.evaluation.place / "responses").files() for r in p.read_parquet().to_pylist()]
    prompts = accepted(tokenizer.prompts([[{"role": "user", "content": row["prompt"]}] for row in rows]))
    asked = sum(map(len, prompts))
    answers = [tokenizer.tokenizer(row["response"], add_special_tokens=False)["input_ids"] for row in rows]
    ended = sum(len(answer) < config.evaluate.max_new_tokens for answer in answers)
    assert run.evaluation.manifest()["tokens"] == asked + sum(map(len, answers)) + ended


def test_the_merged_model_loads_in_plain_transformers(finished: tuple[Run, list[str]]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with download_folder(finished[0].model.place / "merged") as folder:
        AutoModelForCausalLM.from_pretrained(folder)
        assert AutoTokenizer.from_pretrained(folder).chat_template


def test_machines_are_told_what_people_are(finished: tuple[Run, list[str]]) -> None:
    run, overrides = finished
    words = [
        sys.executable,
        "-m",
        "trace_ray.cli",
        "run",
        "-c",
        str(DEMO[0]),
        "--run",
        run.place.uri,
        "--json",
        *overrides,
    ]
    told = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    assert told["evaluation"]["n"]["all"] == 16
    assert set(told["seconds"]) == {"triage", "impact", "realign", "evaluate"}
    assert told["report"] == run.report.uri


def test_running_again_redoes_nothing_and_a_change_is_refused(finished: tuple[Run, list[str]]) -> None:
    run, overrides = finished
    before = run.model.manifest()
    run_stages(run, load_config(DEMO, overrides))
    assert run.model.manifest() == before
    with pytest.raises(StaleRunError, match=r"triage\.threshold"):
        run_stages(run, load_config(DEMO, [*overrides, "triage.threshold=0.4"]))


def test_the_drivers_interrupt_is_its_own_again(finished: tuple[Run, list[str]]) -> None:
    """Ray Train's handler, left behind, would break what a lost lock or Ctrl-C does in the stages after training."""
    assert finished
    assert signal.getsignal(signal.SIGINT) is HANDLER


def test_every_artefact_is_in_the_bucket(finished: tuple[Run, list[str]]) -> None:
    run, _ = finished
    assert "</html>" in run.report.read_text()
    place = run.realign.place / CHECKPOINTS
    found = place.fs.get_file_info(pafs.FileSelector(place.path, recursive=True))
    assert 1 <= sum(info.base_name == "cursor.json" for info in found) <= RealignConfig().keep_checkpoints


def test_status_and_audit_read_it_from_there(finished: tuple[Run, list[str]]) -> None:
    run, overrides = finished
    reached = [text for text in overrides if text.startswith("storage.")]
    told = CliRunner().invoke(app, ["status", "--run", run.place.uri, "--json", *reached])
    states = {row["artefact"]: row["state"] for row in json.loads(told.stdout)}
    assert set(states.values()) == {"done"}
    labels = next(text.split("=")[1].strip("'") for text in overrides if text.startswith("triage.audit_labels"))
    told = CliRunner().invoke(app, ["audit", "--labels", labels, "--run", run.place.uri, *reached])
    assert json.loads(told.stdout)["agreement"] >= 0.95


def test_the_models_were_staged_once(finished: tuple[Run, list[str]]) -> None:
    copies = [p for p in Path(os.environ["TRACE_RAY_CACHE"]).iterdir() if p.is_dir()]
    weights = [copy for copy in copies if list(copy.rglob("*.safetensors"))]
    rows = [copy for copy in copies if (copy / ROWS).exists()]
    # The policy, the judge, the initial and the trained adapter, the merged model; both tokenizers, for the look ahead; what
    # is trained on.
    assert (len(weights), len(rows), len(copies)) == (5, 1, 8)


def test_a_lost_part_is_made_again(finished: tuple[Run, list[str]]) -> None:
    run, overrides = finished
    rows = run.scored.read().to_pylist()
    for name in (run.scored, run.impact):
        name.place.fs.delete_file((name.place / "_DONE").path)
    scores = (run.impact.place / "scores").files()
    scores[0].fs.delete_file(scores[0].path)
    run_stages(run, load_config(DEMO, overrides), ["impact"])
    again = run.scored.read().to_pylist()
    assert [row["pair_id"] for row in again] == [row["pair_id"] for row in rows]
    assert [row["weight"] for row in again] == pytest.approx([row["weight"] for row in rows], rel=1e-5)


def test_no_credential_is_in_any_object(finished: tuple[Run, list[str]]) -> None:
    run, _ = finished
    raw = run.place.fs.handler.fs
    for path in raw.find("lake/runs"):
        data = raw.cat_file(path)
        assert not [name for name, value in CREDENTIALS.items() if len(value) > 5 and value.encode() in data], path
