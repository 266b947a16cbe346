"""What commands read of a run that is there: its settings, one pair, its neighbours; and what they say to slips."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.compare.conftest import finished_run
from tests.report.made_run import AUDIT, MadeRun, config_of
from tests.support.s3 import CREDENTIALS, S3Server
from trace_ray import pipeline
from trace_ray.cli.app import app
from trace_ray.config import Config, StorageConfig
from trace_ray.config.load import dump_config, load_config
from trace_ray.errors import UserError
from trace_ray.runs.artifacts import Run
from trace_ray.runs.one_pair import pair_record
from trace_ray.storage.location import locate


def say(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """runs/one, finished; runs/two, begun; runs/notes, none."""
    monkeypatch.chdir(tmp_path)
    finished_run(tmp_path / "runs" / "one", "trace", 90.0, "tiny")
    kept = load_config(["examples/demo"], ["corpus.paths=[x]", "model.path=m", "triage.judge.model=j"])
    (tmp_path / "runs" / "one" / "config.yaml").write_text(dump_config(kept))
    other = Run(locate(str(tmp_path / "runs" / "two"), StorageConfig()))
    other.rejects.begin({})
    other.write_config("policy: {name: brevity}\nobjective: {method: npo}\n")
    (tmp_path / "runs" / "notes").mkdir()
    return tmp_path / "runs"


Asked = list[tuple[Config, tuple[str, ...]]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """The settings and stages that commands hand to the pipeline, which then does nothing."""
    found: Asked = []
    monkeypatch.setattr(
        pipeline, "run_stages", lambda _run, config, stages, _note, _ended, **_: found.append((config, tuple(stages)))
    )
    return found


@pytest.mark.parametrize("stage", ["impact", "realign", "evaluate", "report", "export"])
def test_a_stage_without_a_file_goes_by_the_settings_of_its_run(runs: Path, asked: Asked, stage: str) -> None:
    done = say(stage, "--run", "runs/one")
    assert done.exit_code == 0, done.output
    ((config, stages),) = asked
    assert stages == (stage,)
    assert dump_config(config) == (runs / "one" / "config.yaml").read_text()


def test_of_settings_beside_it_only_storage_may_differ(runs: Path, asked: Asked) -> None:
    assert say("report", "--run", "runs/one", "storage.region=eu-west-1").exit_code == 0
    assert asked[0][0].storage.region == "eu-west-1"
    assert "only storage.key=value" in str(say("report", "--run", "runs/one", "realign.epochs=2").exception)
    assert "--method: npo: " in str(say("report", "--run", "runs/one", "--method", "npo").exception)
    assert len(asked) == 1


def test_the_runs_of_a_folder_are_listed_with_what_they_are_for(runs: Path) -> None:
    first, two = json.loads(say("runs", "list", "runs", "--json").stdout)
    assert (first["run"], first["method"], first["state"]) == ("one", "trace", "no rejects yet")
    assert two == {"run": "two", "policy": "brevity", "method": "npo", "model": "?", "state": "rejects begun"}
    (runs / "two" / "config.yaml").write_text("{half")
    assert json.loads(say("runs", "list", "runs", "--json").stdout)[1]["policy"] == "?"
    assert "no such folder" in str(say("runs", "list", "rum").exception)


def test_a_pair_is_shown_from_every_folder_that_has_it(tmp_path: Path) -> None:
    import pyarrow as pa

    from trace_ray.pairs import RESPONSE_SCHEMA, SCORED_SCHEMA, TRIAGED_SCHEMA

    run = Run(locate(str(tmp_path / "run"), StorageConfig()))
    row = {
        "pair_id": "b",
        "prompt": [{"role": "user", "content": "Why\x1b[2J?"}],
        "chosen": "So.",
        "category": "INVERT",
    }
    for number, ids in enumerate((["a"], ["b", "c", "cat-1", "cat-2"])):
        rows = [{**row, "pair_id": pair_id} for pair_id in ids]
        (run.triaged.place / f"part-{number}.parquet").write_parquet(pa.Table.from_pylist(rows, TRIAGED_SCHEMA))
    scored = pa.Table.from_pylist([{**row, "impact": 0.5, "weight": 2.0, "chosen_ids": [1, 2]}], SCORED_SCHEMA)
    (run.scored.place / "part-0.parquet").write_parquet(scored)
    answers = pa.Table.from_pylist(
        [{"pair_id": "b", "model": m, "response": m} for m in ("base", "realigned")], RESPONSE_SCHEMA
    )
    (run.evaluation.place / "responses" / "part-0.parquet").write_parquet(answers)
    found = pair_record(run, "b")
    assert (found["triaged"]["category"], found["scored"]["weight"]) == ("INVERT", 2.0)
    assert "chosen_ids" not in found["scored"]
    assert [answer["response"] for answer in found["answers"]] == ["base", "realigned"]
    assert list(pair_record(run, "c")) == ["triaged"]
    with pytest.raises(UserError, match="no triaged pair has that id"):
        pair_record(run, "d")
    with pytest.raises(UserError, match=r"several ids begin so \(cat-1, cat-2\): give more of it"):
        pair_record(run, "cat")
    (run.triaged.place / "part-9.parquet").write_parquet(
        pa.Table.from_pylist([row | {"pair_id": "dog-1"}], TRIAGED_SCHEMA)
    )
    assert pair_record(run, "do")["triaged"]["pair_id"] == "dog-1"
    shown = say("show", "b", "--run", str(tmp_path / "run")).stdout
    assert "  prompt: user: Why\\x1b[2J?\n" in shown
    assert json.loads(say("show", "b", "--run", str(tmp_path / "run"), "--json").stdout) == found


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with S3Server() as server:
        server.make_bucket("bucket")

        def put(folder: Path, name: str) -> str:
            there = locate(f"s3://bucket/{name}", StorageConfig(endpoint=server.endpoint, region="us-east-1"))
            for file in folder.rglob("*"):
                if file.is_file():
                    (there / file.relative_to(folder).as_posix()).write_bytes(file.read_bytes())
            return f"storage.endpoint={server.endpoint}"

        yield put


def test_compare_and_rate_reach_a_store_by_storage_settings(
    runs: Path, bucket: Callable[..., str], tmp_path: Path
) -> None:
    endpoint = bucket(runs / "one", "runs/one")
    words = ["s3://bucket/runs/one", endpoint, "storage.region=us-east-1"]
    local, far = (json.loads(say("compare", *arguments, "--json").stdout) for arguments in (["runs/one"], words))
    assert [record | {"name": "", "run": ""} for record in far] == [
        record | {"name": "", "run": ""} for record in local
    ]
    said = say("rate", "score", "s3://bucket/anna.csv", "--out", "out", *words[1:])
    assert "rate score: s3://bucket/anna.csv: no such file" in str(said.exception)


def test_a_run_in_a_store_is_watched_as_one_of_this_machine(bucket: Callable[..., str], tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "run")
    run = made.everything(AUDIT)
    run.write_config(dump_config(config_of("corpus.paths=[x]")))
    run.report.write_text("<p>all of it</p>")
    far = ["s3://bucket/run", bucket(made.folder, "run"), "storage.region=us-east-1"]
    pages = [tmp_path / "here.html", tmp_path / "far.html"]
    for words, page in zip(([str(made.folder)], far), pages, strict=True):
        assert say("watch", "--run", *words, "--html", str(page)).exit_code == 0
    here, there = (page.read_text() for page in pages)
    assert "All stages are done." in here
    assert there.replace("s3://bucket/run", str(made.folder)) == here


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "corpus.path=[x]",
            "corpus.path: unknown setting (did you mean 'corpus.paths'?)",
        ),
        (
            "my.yaml",
            "override: my.yaml: a file of settings is given with -c",
        ),
    ],
)
def test_a_slip_in_a_setting_is_told_what_was_meant(word: str, said: str) -> None:
    assert said in str(say("run", "-c", "examples/demo", "--run", "r", word).exception)
