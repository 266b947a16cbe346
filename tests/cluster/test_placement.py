"""Each stage hands its label selector to Ray; that Ray heeds it is shown by tests/ray/test_labelled_nodes.py and tests/jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from trace_ray.config import Config
from trace_ray.config.load import load_config
from trace_ray.pipeline import run_folder

WHERE = {"trace-ray/pool": "somewhere"}


def placed(section: str) -> Config:
    return load_config([], ["policy.text=Be brief.", f"{section}.label_selector={{trace-ray/pool: somewhere}}"])


def test_tasks_of_impact() -> None:
    from trace_ray.impact.direction_stage import task

    def work() -> None:
        """Stands for the scoring of a shard."""

    assert task(work, placed("impact").impact, cpus=1)._default_options["label_selector"] == WHERE
    assert task(work, placed("realign").impact, cpus=1)._default_options.get("label_selector") is None


def test_workers_of_training(tmp_path: Path) -> None:
    from trace_ray.realign.ray_train import make_trainer

    run = run_folder(str(tmp_path), Config().storage)
    assert make_trainer(run, placed("realign")).scaling_config.label_selector == WHERE
    assert make_trainer(run, placed("impact")).scaling_config.label_selector is None


def test_tasks_of_evaluation() -> None:
    from trace_ray.evaluate.models_stage import _one_model

    assert _one_model(placed("evaluate").evaluate)["label_selector"] == WHERE


class AskedError(Exception):
    """What Ray Data was asked for."""


class Rows:
    """Stands for Ray Data's rows, so that no cluster is started to see what it is asked for."""

    def map(self, _worker: type, **options: object) -> None:
        raise AskedError(options["label_selector"])


def test_pools_of_actors(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.data

    from trace_ray.evaluate.answering import Chunk
    from trace_ray.evaluate.stage import _run_pool
    from trace_ray.storage.traffic import Traffic
    from trace_ray.triage.running import in_pool
    from trace_ray.triage.workers import DecideActor

    monkeypatch.setattr(ray.data, "from_items", lambda *_args, **_options: Rows())
    judge = placed("triage.judge").triage.judge
    with pytest.raises(AskedError) as asked:
        list(in_pool(DecideActor, tuple, [0], judge))
    assert asked.value.args == (WHERE,)
    chunk = Chunk(folder="responses", model="base", index=0, prompts=[])
    with pytest.raises(AskedError) as asked:
        _run_pool("evaluate", object, (), [chunk], [], judge, Traffic())
    assert asked.value.args == (WHERE,)
