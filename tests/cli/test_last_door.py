"""What a command says when a run's folder, a file or trace-ray itself is broken: one line, and the right exit code."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore.exceptions
import pytest
import typer

from tests.compare.conftest import finished_run
from tests.test_pipeline import wrapped
from trace_ray.cli import app as cli
from trace_ray.config import StorageConfig
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.errors import UserError
from trace_ray.runs.memory import record_peak, recorded_peak
from trace_ray.runtime.endings import reason, told
from trace_ray.runtime.progress import CONSOLE, Meter
from trace_ray.storage.location import expand, locate

Told = tuple[int, str, str]


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    """Runs the command line in a folder of its own: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(cli.DEBUG, "0")  # what --debug sets goes with the test

    def run(*words: str) -> Told:
        monkeypatch.setattr("sys.argv", ["trace-ray", *words])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capsys.readouterr()
        return int(stopped.value.code or 0), said.out, said.err

    return run


def assert_one_line(told: Told, said: str, code: int = 2) -> None:
    assert told[0] == code, told
    assert told[2].startswith("trace-ray: "), told
    assert told[2].count("\n") == 1, told
    assert said in told[2]


def a_run(name: str = "run") -> Path:
    finished_run(Path(name), "trace", 90.0, "tiny")
    return Path(name)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"counts": '])
@pytest.mark.parametrize("file", ["triaged/manifest.json", "evaluation/manifest.json"])
def test_a_damaged_manifest_is_said_to_be(say: Callable[..., Told], file: str, text: str) -> None:
    damaged = a_run() / file
    damaged.write_text(text)
    assert_one_line(say("status", "--run", "run"), f"{file}: no JSON object: it is damaged or gone")
    damaged.unlink()
    assert_one_line(say("compare", "run"), f"{file}: no JSON object: it is damaged or gone")


@pytest.mark.parametrize("lacking", ["counts", "seconds", "inputs_hash"])
def test_a_manifest_that_lacks_something_is_damaged(say: Callable[..., Told], lacking: str) -> None:
    place = a_run() / "triaged" / "manifest.json"
    manifest = json.loads(place.read_text())
    del manifest[lacking]
    place.write_text(json.dumps(manifest))
    for words in (["status", "--run", "run"], ["status", "--run", "run", "--json"], ["compare", "run"]):
        assert_one_line(say(*words), f"run/triaged/manifest.json: no {lacking}: it is damaged")


@pytest.mark.parametrize("text", ["{half\n", "[1]\n", '{"lr": 1}\n', '{"step": 1, "steps": 9}\n\x00\n', "\ufffd\n"])
def test_status_tells_what_is_damaged_and_all_the_rest(say: Callable[..., Told], text: str) -> None:
    run = a_run()
    (run / "realign" / "_DONE").unlink()
    (run / "realign" / "metrics.jsonl").write_text(text)
    code, out, err = say("status", "--run", "run", "--json")
    states = {row["artefact"]: row["state"] for row in json.loads(out)}
    assert (code, states["realign"], states["triaged"], states["evaluation"]) == (2, "damaged", "done", "done")
    assert_one_line((code, out, err), f"run/realign/metrics.jsonl:{text.count(chr(10))}: ")
    code, out, err = say("status", "--run", "run", "--watch")
    assert "triage" in out
    assert_one_line((code, out, err), "no figures of a step: the file is damaged")


def test_a_damaged_record_of_memory_counts_as_none(tmp_path: Path) -> None:
    place = locate(str(tmp_path), StorageConfig())
    for text in ("", "[]", "{}", '{"peak_memory_bytes": "much"}'):
        (place / "resources.json").write_text(text)
        record_peak(place, 7)
        assert recorded_peak(place) == 7


def test_figures_that_are_half_written_are_no_fault(say: Callable[..., Told]) -> None:
    run = a_run()
    (run / "realign" / "_DONE").unlink()
    lines = ['{"step": 1, "steps": 9}', '{"step": 2, "steps": 9}', '{"step": 3, "st']
    for text, step in (("\n".join(lines), 2), ("", 0), (lines[0][:9], 0)):
        (run / "realign" / "metrics.jsonl").write_text(text)
        code, out, _ = say("status", "--run", "run", "--json")
        assert code == 0
        assert {row["artefact"]: row for row in json.loads(out)}["realign"]["step"] == step


@pytest.mark.parametrize("text", ["", "- a", "a: [", "a: 1\na: 2", "\x00"])
def test_a_damaged_configuration_of_a_run(say: Callable[..., Told], text: str) -> None:
    (a_run() / "config.yaml").write_text(text)
    for words in (["audit", "--labels", "l.jsonl", "--run", "run"], ["rate", "export", "run", "--out", "out"]):
        assert_one_line(say(*words), "run/config.yaml: ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["init", "file/x.yaml"], "file"),
        (["compare", "run", "--html", "."], "."),
        (["compare", "run", "--html", "file/x.html"], "file"),
        (["plan", "-c", "."], "-c: .: a folder; name a file in it"),
        (["status", "--run", "rum"], "--run: rum: no run has begun there (did you mean 'run'?)"),
        (["audit", "--labels", "l.jsonl", "--run", "rum"], "--run: rum: no run there (did you mean 'run'?)"),
        (["rate", "export", "run", "--out", "out", "--items", "-5"], "--items"),
    ],
)
def test_a_file_where_a_folder_is_needed_and_the_other_way_round(
    say: Callable[..., Told], words: list[str], said: str
) -> None:
    a_run()
    Path("file").write_text("")
    assert_one_line(say(*words), said)


def test_storage_without_credentials_is_a_mistake_and_no_trace(
    say: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "none")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert_one_line(
        say("rate", "score", "s3://nobody/anna.csv", "--out", "out"), "storage: Unable to locate credentials"
    )


def test_what_nobody_foresaw_keeps_its_trace_in_a_file(
    say: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("no such\nthing")

    monkeypatch.setattr("trace_ray.cli.status.states", broken)
    told = say("status", "--run", str(a_run()))
    assert_one_line(told, "KeyError: ", code=1)
    kept = next(Path(word) for word in told[2].replace(",", " ").split() if word.endswith(".txt"))
    assert "in broken" in kept.read_text()
    kept.unlink()
    monkeypatch.setattr("sys.argv", ["trace-ray", "status", "--run", "run", "--debug"])
    with pytest.raises(KeyError):
        cli.main()


@pytest.mark.parametrize("met_by", ["task", "worker", "controller"])
def test_the_reason_comes_before_what_ray_says_of_it(met_by: str) -> None:
    """Ray's own text begins with process, actor and trace, longer than a line may be."""
    said = reason(wrapped(RuntimeError("not exported: it differs by 0.12"))[met_by])
    assert said == "RuntimeError: not exported: it differs by 0.12"


def test_of_a_trace_in_a_message_the_end_is_told() -> None:
    frames = "".join(f'  File "/a/long/way/{i}.py", line {i}, in step\n    go(\n        {i})\n' for i in range(20))
    trace = f"The actor died.\n\x1b[36mray::Judge.__init__()\x1b[39m\n{frames}ValueError: no such\n  dtype fp12\n"
    assert reason(RuntimeError(trace)) == "ValueError: no such dtype fp12"
    assert reason(RuntimeError("first line\nsecond line")) == "RuntimeError: first line second line"


def test_ctrl_c_ends_a_run_with_a_line_that_says_how_it_goes_on(
    say: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("trace_ray.pipeline.run_stages", interrupted)
    demo = str(conf_folder() / "examples" / "demo.yaml")
    for command in ("run", "realign"):
        told = say(
            command, "-c", demo, "--run", "run", "corpus.paths=[x.jsonl]", "model.path=m", "triage.judge.model=j"
        )
        assert_one_line(told, "interrupted: what is finished is kept, and the same command goes on", code=130)


def test_flags_are_read_wherever_they_stand(say: Callable[..., Told], monkeypatch: pytest.MonkeyPatch) -> None:
    a_run()
    assert say("status", "--run", "run", "--quiet")[0] == 0
    assert CONSOLE.quiet
    assert say("status", "--run", "run")[0] == 0
    assert not CONSOLE.quiet
    monkeypatch.setattr("sys.argv", ["trace-ray", "status", "--debug", "--run", "nowhere"])
    with pytest.raises(UserError):
        cli.main()


def test_a_meter_says_nothing_where_quiet_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trace_ray.runtime.progress._PLAIN_SECONDS", -1.0)
    for quiet in (False, True):
        monkeypatch.setattr(CONSOLE, "quiet", quiet)
        with Meter("judge", 10) as meter:
            meter.advance(3)
        assert ("3/10 rows" in capsys.readouterr().err) is not quiet


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("realign: {workers: 1}\nrealign: {workers: 2}", "not yaml: realign is given twice"),
        ("learning_rate: 1", "did you mean 'realign.learning_rate'?"),
        ("corpus: {paths: pairs.jsonl}", "corpus.paths: it is a list: write it in brackets"),
        ("triage: {first_judge: 3}", "it is a section: give its settings"),
    ],
)
def test_a_file_of_settings_that_says_something_else(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError) as refused:
        load_config([tmp_path / "c.yaml"])
    assert said in str(refused.value)


def test_a_date_is_a_version_like_any_other(tmp_path: Path) -> None:
    for version in ("2026-05-01", "2026-02-30"):
        (tmp_path / "c.yaml").write_text(f"policy: {{name: p, version: {version}, text: t}}")
        assert load_config([tmp_path / "c.yaml"]).policy.version == version


def test_a_name_with_brackets_is_the_file_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "pairs[1].jsonl").write_text("{}")
    (found,) = expand((str(tmp_path / "pairs[1].jsonl"),), StorageConfig(), "corpus.paths")
    assert found.name == "pairs[1].jsonl"
    with pytest.raises(UserError, match=r"did you mean 'pairs\[1\]\.jsonl'"):
        expand((str(tmp_path / "pairs[2].jsonl"),), StorageConfig(), "corpus.paths")


def test_a_plan_tells_every_setting_that_is_wrong_at_once(say: Callable[..., Told]) -> None:
    wrong = ["realign.workers=0", "impact.gamma=-1", "model.dtype=fp16"]
    demo = str(conf_folder() / "examples" / "demo.yaml")
    code, _, err = say("plan", "-c", demo, *wrong)
    assert code == 2
    for setting in wrong:
        assert f"trace-ray: {setting.partition('=')[0]}: " in err, err
    code, out, err = say("plan", "-c", demo, "--json", *wrong)
    assert code == 2
    assert [f"trace-ray: {problem}" for problem in json.loads(out)["problems"]] == err.splitlines()


def test_the_line_of_each_kind_of_end() -> None:
    class NoCredentialsError(Exception):
        __module__ = "botocore.exceptions"

    assert told(UserError("a", "b", "c")) == (2, "a: b: c")
    assert told(NoCredentialsError("Unable to locate credentials"))[0] == 2
    assert told(botocore.exceptions.EndpointConnectionError(endpoint_url="https://s3"))[0] == 1, "it may be tried again"
    assert told(botocore.exceptions.ReadTimeoutError(endpoint_url="https://s3"))[1].startswith("storage: Read timeout")
    assert told(FileNotFoundError(2, "No such file", "x.csv"))[1].startswith("x.csv: No such file: ")
    late = Exception(
        "The current node timed out during startup. This could happen because the GCS has become overloaded."
    )
    assert told(late)[0] == 1
    assert told(late)[1].startswith("Ray did not start in time: this machine is busy; ")
    assert isinstance(typer.Abort(), Exception)
