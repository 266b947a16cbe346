"""Learning rate over a run, Algorithm 1's stop, and what the card and the trackers say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.realign import handmade
from tests.report.made_run import AUDIT, MadeRun
from trace_ray.config import RealignConfig, StorageConfig
from trace_ray.errors import UserError
from trace_ray.realign.card import base_licence, card_facts, model_card
from trace_ray.realign.schedule import converged, rate_factor
from trace_ray.realign.trackers import TENSORBOARD, check_trackers, make_trackers, tell_once
from trace_ray.runs.stage_figures import stage_figures
from trace_ray.storage.location import locate


def test_the_rate_warms_up_then_falls() -> None:
    cosine = [rate_factor(i, 100, 10, "cosine") for i in range(100)]
    assert cosine[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert cosine[9] == cosine[10] == 1.0
    assert cosine[55] == pytest.approx(0.5)
    assert cosine[99] < 0.001
    linear = [rate_factor(i, 100, 0, "linear") for i in range(100)]
    assert linear[50] == pytest.approx(0.5)
    assert rate_factor(99, 100, 0, "constant") == 1.0
    most = RealignConfig(warmup_steps=100).warm_up(20)
    assert rate_factor(0, 20, most, "constant") == 0.5  # at most a tenth of the run


def test_a_run_stops_once_the_norm_stays_below_epsilon() -> None:
    assert not converged([0.1] * 5, 0.0, 3)
    assert not converged([0.1, 0.9, 0.1], 0.5, 3)
    assert converged([0.9, 0.1, 0.2, 0.3], 0.5, 3)


def test_the_card_carries_the_base_licence(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: llama3.1\ntags: [x]\n---\ntext")
    licence = base_licence(str(tmp_path))
    assert licence == {"license": "other", "license_name": "llama3.1"}
    card = model_card({"base model": "b", "policy": "p", "method": "trace"}, licence)
    assert "license: other\nlicense_name: llama3.1\n" in card.split("---\n")[1]


@pytest.mark.parametrize("base", ["/models/base", "s3://lake/base", "models", "../base"])
def test_a_base_in_a_folder_is_no_hubs_base_model(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub refuses such a card; the text still says what was trained."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    card = model_card({"base model": base, "policy": "p", "method": "trace"}, {})
    assert "base_model" not in card
    assert f"- base model: {base}" in card
    assert "base_model: org/base\n" in model_card({"base model": "org/base", "policy": "p", "method": "trace"}, {})


def test_the_card_names_method_policy_data_and_metrics(tmp_path: Path) -> None:
    config = handmade.tiny_config(handmade.tiny_model(tmp_path / "model"))
    run = handmade.make_run(tmp_path / "run", config, count=4)
    metrics = [
        {"tokens": 10, "INVERT/loss": 0.9},
        {"tokens": 7, "INVERT/loss": 0.51239, "INVERT/margin": 1.5, "lr": 1.0},
    ]
    lines = model_card(card_facts(run, config, metrics), {}).splitlines()
    triaged, scored = run.triaged.manifest()["inputs_hash"], run.scored.manifest()["inputs_hash"]
    assert triaged != scored
    for line in (
        "- method: trace",
        "- trained: LoRA adapter, merged",
        f"- policy: test version 1 ({'0' * 16})",
        f"- pairs: {triaged}",
        f"- scored pairs: {scored}",
        "- steps: 2",
        "- tokens: 17",
        f"- at the last step: {json.dumps({'INVERT/loss': 0.5124, 'INVERT/margin': 1.5})}",
        "Its licence is the base model's; see there.",
    ):
        assert line in lines


class MlflowServer:
    """What mlflow keeps: the package itself is no dependency here, so its few calls stand in at the outermost edge."""

    def __init__(self) -> None:
        self.tags: list[str] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.active = -1

    def search_runs(self, filter_string: str, output_format: str) -> list[Any]:
        name, _, tag = filter_string.partition(" = ")
        assert (name, output_format) == ("tags.trace_ray", "list")
        assert tag.count("'") == 2  # a quote inside would end the literal
        return [SimpleNamespace(info=SimpleNamespace(run_id=i)) for i, t in enumerate(self.tags) if f"'{t}'" == tag]

    def start_run(self, run_id: int = -1, run_name: str = "", tags: dict[str, str] | None = None) -> None:
        if run_id < 0:
            self.tags.append((tags or {})["trace_ray"])
        self.active = run_id if run_id >= 0 else len(self.tags) - 1

    def log_metrics(self, figures: dict[str, float], step: int) -> None:
        self.logged.append((step, figures))


def test_mlflow_continues_the_run_of_an_earlier_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = MlflowServer()
    monkeypatch.setitem(sys.modules, "mlflow", server)
    place = locate(str(tmp_path), StorageConfig())
    for name, step in (("/runs/ann's", 1), ("/runs/other", 1), ("/runs/ann's", 2)):
        (tracker,) = make_trackers(("mlflow",), place, name, step)
        tracker.log(step, {"grad_norm": 0.5})
        tracker.flush()
    assert (len(server.tags), server.active) == (2, 0)
    assert server.logged == [(1, {"grad_norm": 0.5}), (1, {"grad_norm": 0.5}), (2, {"grad_norm": 0.5})]


def test_wandb_continues_the_run_of_an_earlier_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: dict[str, list[tuple[int | None, dict[str, float]]]] = {}

    def init(**given: Any) -> Any:
        assert (given["project"], given["resume"]) == ("trace-ray", "allow")
        logged = runs.setdefault(given["id"], [])
        defined = {"define_metric": lambda *_, **__: None}
        return SimpleNamespace(log=lambda figures, step=None: logged.append((step, figures)), **defined)

    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    place = locate(str(tmp_path), StorageConfig())
    for name, step in (("/runs/a", 1), ("/runs/b", 1), ("/runs/a", 2)):
        (tracker,) = make_trackers(("wandb",), place, name, step)
        tracker.log(step, {"grad_norm": float(step)})
    assert list(runs.values()) == [[(1, {"grad_norm": 1.0}), (2, {"grad_norm": 2.0})], [(1, {"grad_norm": 1.0})]]
    tracker.log(1, {"dev_drift": 0.5})
    assert runs.popitem()[1][-1] == (None, {"dev_drift": 0.5, "dev_step": 1}) or runs, "told after later steps"


def test_tensorboard_is_written_and_a_resume_voids_what_was_lost(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    place = locate(str(tmp_path), StorageConfig())
    (first,) = make_trackers(RealignConfig().trackers, place, "run", 1)
    for step in (1, 2, 3):
        first.log(step, {"grad_norm": float(step)})
    first.flush()
    (second,) = make_trackers(("tensorboard",), place, "run", 3)
    second.log(3, {"grad_norm": 30.0})
    second.flush()
    events = EventAccumulator(str(tmp_path / TENSORBOARD)).Reload().Scalars("grad_norm")
    assert [(e.step, e.value) for e in events] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_trackers_are_told_of_triage_and_of_the_evaluation_beside_training(tmp_path: Path) -> None:
    """Events as TensorBoard reads them: triage before the first step, evaluation at the last; the resume voids neither."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    made = MadeRun(tmp_path)
    made.everything(AUDIT)
    place = made.run.evaluation.place / "metrics.json"
    more = {"tpa_corrected": {"base": {"all": 12.5}}, "judge_audit": {"auc": 0.875, "kappa": None, "responses": 60}}
    place.write_text(json.dumps(json.loads(place.read_text()) | more))
    for stage in ("triage", "evaluate"):
        told = stage_figures(made.run, stage)
        assert told is not None
        tell_once(("tensorboard",), made.run.realign.place, "run", *told)
        if stage == "triage":
            (training,) = make_trackers(("tensorboard",), made.run.realign.place, "run", 1)
            training.log(1, {"grad_norm": 1.0})
            training.flush()
    events = EventAccumulator(str(tmp_path / "realign" / TENSORBOARD)).Reload()
    found = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert found["grad_norm"] == [(1, 1.0)]
    assert (found["triage/rejects"], found["triage/rows_in"]) == ([(0, 5.0)], [(0, 25.0)])
    assert found["triage/kappa"] == [(0, pytest.approx(AUDIT["kappa"]))]
    assert (found["evaluation/tpa/base/all"], found["evaluation/tpa/realigned/INVERT"]) == ([(5, 50.0)], [(5, 100.0)])
    assert found["evaluation/tpa_corrected/base/all"] == [(5, 12.5)]
    assert {name: told for name, told in found.items() if "/judge/" in name} == {"evaluation/judge/auc": [(5, 0.875)]}
    assert stage_figures(made.run, "realign") is None


def test_a_tracker_lets_go_of_its_run_where_another_process_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    nothing = {"define_metric": lambda *_, **__: None, "log": lambda *_, **__: said.append("log")}
    wandb = SimpleNamespace(init=lambda **_: SimpleNamespace(finish=lambda: said.append("finish"), **nothing))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    tell_once(("wandb",), locate(str(tmp_path), StorageConfig()), "run", 0, {"triage/INVERT": 3.0})
    assert said == ["log", "finish"]


def test_a_tracker_that_takes_no_figures_costs_no_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def down(**_: Any) -> None:
        raise ConnectionError("its server is down")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=down))
    tell_once(("wandb", "tensorboard"), locate(str(tmp_path), StorageConfig()), "run", 0, {"triage/INVERT": 3.0})
    said = "realign.trackers: wandb was not told the figures of step 0: ConnectionError: its server is down"
    assert said in "".join(capsys.readouterr())
    assert list((tmp_path / TENSORBOARD).iterdir())


def test_a_tracker_that_is_not_installed_is_named() -> None:
    with pytest.raises(UserError, match="pip install wandb"):
        check_trackers(("wandb",))
