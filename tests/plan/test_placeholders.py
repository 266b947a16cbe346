"""What a shipped file leaves to its reader is said before a bucket of that name is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from trace_ray.config.load import load_config
from trace_ray.errors import UserError
from trace_ray.pipeline import run_folder, run_stages
from trace_ray.plan.plan import make_plan

SAID = "put your own in place of REPLACE-ME-"


def test_a_run_does_not_begin(tmp_path: Path) -> None:
    config = load_config(["examples/kuberay_cpu"])
    run = run_folder(str(tmp_path / "run"), config.storage)
    with pytest.raises(UserError, match=rf"^corpus.paths: .*s3://REPLACE-ME-BUCKET/.*: {SAID}"):
        run_stages(run, config)
    assert not (tmp_path / "run").exists()


def test_nor_does_its_folder() -> None:
    config = load_config(["examples/demo"])
    with pytest.raises(UserError, match=rf"^--run: s3://REPLACE-ME-BUCKET/runs/x: {SAID}"):
        run_folder("s3://REPLACE-ME-BUCKET/runs/x", config.storage)


def test_a_plan_names_every_one() -> None:
    config = load_config(["examples/kuberay_cpu"], ["plan.cpus=64"])
    found = [problem.where for problem in make_plan(config, None).problems]
    assert found == ["corpus.paths", "model.path"]
