"""Where -c finds its files: paths, s3://, shipped names; includes beside the file that names them, or shipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.s3 import S3Server, set_credentials
from trace_ray.config import StorageConfig
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder, shipped_names
from trace_ray.errors import UserError
from trace_ray.storage.location import locate

FORMS = ["{}", "{}.yaml", "conf/{}", "conf/{}.yaml"]


@pytest.mark.parametrize("form", FORMS)
def test_a_shipped_file_is_found_by_name_from_any_folder(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config([form.format("policies/brevity"), form.format("models/llama-3.1-8b")])
    assert config.model.path == "meta-llama/Llama-3.1-8B-Instruct"


def test_every_shipped_file_has_a_name() -> None:
    files = [path for path in conf_folder().rglob("*.yaml") if path.parent.name != "tasks"]
    files.remove(
        conf_folder() / "reference.yaml"
    )  # to be read; every default as a layer would undo the layers before it
    known = set(shipped_names())
    assert len(files) > 25
    assert {path.relative_to(conf_folder()).with_suffix("").as_posix() for path in files} <= known


def test_a_file_of_ones_own_comes_before_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "brevity.yaml").write_text("policy: {text: Mine.}")
    (tmp_path / "run.yaml").write_text("include: [policies/brevity.yaml]")
    for given in ("policies/brevity.yaml", "run.yaml"):
        assert load_config([given]).policy.text == "Mine."
    (tmp_path / "run.yaml").write_text("include: [policies/brevity]")
    assert load_config(["run.yaml"]).policy.name == "brevity"


def test_a_mistyped_name_is_told_with_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"models/lama-3.1-8b: no such file \(did you mean 'models/llama-3.1-8b'\?\)"):
        load_config(["models/lama-3.1-8b"])


def test_a_method_takes_the_place_of_one_that_a_shipped_file_includes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(["examples/smollm2_pku_brevity"], method="naive_oracle_dpo")
    assert config.objective.method == "naive_oracle_dpo"


def test_a_configuration_is_read_from_s3(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an include beside it there, and one that is shipped."""
    set_credentials(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    s3_server.make_bucket("conf")
    reached = StorageConfig(endpoint=s3_server.endpoint, region="us-east-1")
    place = locate("s3://conf/runs", reached)
    (place / "run.yaml").write_text("include: [base/small.yaml, policies/brevity]\nrealign: {batch: 7}\n")
    (place / "base" / "small.yaml").write_text("include: [../more.yaml]\nrealign: {batch: 5, epochs: 3}\n")
    (place / "more.yaml").write_text("realign: {epochs: 9, workers: 4}\n")
    (place / "round.yaml").write_text("include: [round.yaml]\n")
    how = [f"storage.endpoint={s3_server.endpoint}", "storage.region=us-east-1"]
    realign = load_config(["s3://conf/runs/run.yaml"], how).realign
    assert (realign.batch, realign.epochs, realign.workers) == (7, 3, 4)
    with pytest.raises(UserError, match=r"-c: s3://conf/runs/run\.yml: no such file"):
        load_config(["s3://conf/runs/run.yml"], how)
    with pytest.raises(UserError, match="includes itself"):
        load_config(["s3://conf/runs/round.yaml"], how)
    with pytest.raises(UserError, match="nobodys"):
        load_config(["s3://nobodys/run.yaml"], how)
