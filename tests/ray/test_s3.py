"""The whole run with corpus, models and run folder in S3, on a real local Ray; then again, and after a lost part."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest
import ray
from typer.testing import CliRunner

from tests.support.s3 import CREDENTIALS, S3Server, set_credentials
from trace_ray.cli.app import app
from trace_ray.config import RealignConfig, StorageConfig
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.errors import StaleRunError
from trace_ray.pipeline import run_folder, run_stages
from trace_ray.realign.checkpoints import CHECKPOINTS
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import upload_folder
from trace_ray.synth.demo import write_corpus

DEMO = [conf_folder() / "examples" / "demo.yaml"]
SMALL = ["corpus.limit=120", "impact.gold_size=9", "impact.shard_rows=37", "evaluate.prompts=16"]


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


def test_every_artefact_is_in_the_bucket(finished: tuple[Run, list[str]]) -> None:
    run, _ = finished
    counts = run.triaged.manifest()["counts"]
    assert counts["rows_in"] == 120 + 128 == counts["triaged"] + counts["rejects"]
    metrics = json.loads((run.evaluation.place / "metrics.json").read_text())
    assert metrics["n"]["all"] == 16
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
    # The policy, the judge, the initial and the trained adapter, the merged model; both tokenizers, for the look ahead.
    assert (len(weights), len(copies)) == (5, 7)


def test_running_again_redoes_nothing_and_a_lost_part_is_made_again(finished: tuple[Run, list[str]]) -> None:
    run, overrides = finished
    before, rows = run.model.manifest(), run.scored.read().to_pylist()
    run_stages(run, load_config(DEMO, overrides))
    assert run.model.manifest() == before
    with pytest.raises(StaleRunError, match=r"triage\.threshold"):
        run_stages(run, load_config(DEMO, [*overrides, "triage.threshold=0.4"]))
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
