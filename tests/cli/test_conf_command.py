"""`trace-ray conf`: names, and copies that mean the same from any folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from trace_ray.cli.app import app
from trace_ray.cli.conf import names
from trace_ray.config.load import read_config
from trace_ray.config.sources import conf_folder


def said(*words: str) -> str:
    result = CliRunner().invoke(app, ["conf", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_list_names_every_file_and_says_what_it_is() -> None:
    lines = said("list").splitlines()
    assert [line.split()[0] for line in lines] == names()
    assert next(line for line in lines if line.startswith("examples/demo ")).endswith("minutes on a CPU.")


def test_a_file_is_shown_as_it_is() -> None:
    for name in ("reference", "policies/brevity", "conf/policies/brevity.yaml"):
        stem = name.removeprefix("conf/").removesuffix(".yaml")
        assert said("show", name) == (conf_folder() / f"{stem}.yaml").read_text()


@pytest.mark.parametrize("name", [name for name in names() if not name.startswith("tasks/")])
def test_a_copy_means_the_same_in_another_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said("copy", name, "mine/copy.yaml")
    original = conf_folder() / f"{name}.yaml"
    assert read_config(["mine/copy.yaml"]) == read_config([original])


def test_nothing_is_overwritten_and_a_wrong_name_gets_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said("copy", "policies/brevity")
    again = CliRunner().invoke(app, ["conf", "copy", "policies/brevity"])
    assert str(again.exception) == "conf copy: brevity.yaml: is there already; name another file"
    wrong = CliRunner().invoke(app, ["conf", "show", "policies/brevty"])
    assert "did you mean 'policies/brevity'?" in str(wrong.exception)
