"""What a selection tells while it measures: one file, and each tracker each candidate once, whatever is killed in between."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.told_tracker import PLUGIN, Lines, told
from trace_ray.config import Config, RealignConfig, SelectConfig
from trace_ray.realign.candidates import candidate_name
from trace_ray.realign.trackers import check_trackers
from trace_ray.runs.artifacts import Run
from trace_ray.runs.validations import Validation, validations, write_validation
from trace_ray.selection import stage
from trace_ray.selection.choose import Choice, choose
from trace_ray.selection.scales import Kept
from trace_ray.selection.told import curve, tell

SELECT = SelectConfig(steps=10, max_drift=0.5, max_category_loss=5.0)
REALIGN = RealignConfig(select=SELECT, trackers=(PLUGIN, "tensorboard"))
SHARES = {0: (40.0, 0.0), 10: (60.0, 0.1), 20: (90.0, 0.9), 30: (50.0, 0.2), 40: (70.0, 0.3)}
"""Step -> share of compliant answers and drift: 20 is best and drifts too far."""


def measure(run: Run, *steps: int, adapter: str = "x") -> None:
    for step in steps:
        share, drift = SHARES[step]
        tpa = {"all": share, "RETAIN": 80.0}
        made: dict[str, Any] = {
            "tpa": tpa,
            "prompts": {"all": 8, "RETAIN": 4},
            "drift": drift,
            "seconds": 2.5,
            "tokens": 99,
        }
        write_validation(run, candidate_name(step), Validation(step=step, adapter=adapter if step else "", **made))


def realign(run: Run) -> Path:
    return Path(run.realign.place.path)


def steps_told(run: Run) -> list[int]:
    return [line["step"] for line in told(realign(run), "dev")]


def test_the_curve_is_one_file_with_what_was_kept_and_why_not(run: Run) -> None:
    measure(run, *SHARES)
    tell(run, RealignConfig(select=SELECT, trackers=()))
    rows = [json.loads(line) for line in (realign(run) / "validations.jsonl").read_text().splitlines()]
    assert [(row["step"], row["dev_tpa/all"], row["dev_drift"]) for row in rows] == [(s, *SHARES[s]) for s in SHARES]
    assert [row["step"] for row in rows if row["dev_kept"]] == [0, 10, 40], "each better than all before it"
    assert rows[-1]["dev_kept"]
    assert choose(validations(run), SELECT).step == 40
    assert [row["over_budget"] for row in rows] == ["", "", "drift 0.9 nats a token", "", ""]
    assert rows[1]["dev_tpa/RETAIN"] == 80.0
    assert (rows[1]["prompts"], rows[1]["seconds"], rows[1]["tokens"]) == ({"all": 8, "RETAIN": 4}, 2.5, 99)


def test_after_patience_ran_out_nothing_is_kept(run: Run) -> None:
    measure(run, *SHARES)
    impatient = SelectConfig(steps=10, max_drift=0.5, patience=2)
    assert [row["step"] for row in curve(validations(run), impatient) if row["dev_kept"]] == [0, 10]


def test_each_candidate_is_told_once_by_whatever_process(run: Run) -> None:
    check_trackers(REALIGN.trackers)
    measure(run, 0)
    tell(run, REALIGN)
    assert steps_told(run) == [0]
    measure(run, 10, 20)
    for _ in range(3):  # each time as a process that begins anew: what was told is known by files alone
        tell(run, REALIGN)
    measure(run, 30, 40)
    tell(run, REALIGN)
    assert steps_told(run) == [0, 10, 20, 30, 40]
    lines = told(realign(run), "dev")
    assert lines[1] == {"run": lines[0]["run"], "step": 10, "dev_tpa/all": 60.0, "dev_tpa/RETAIN": 80.0} | {
        "dev_drift": 0.1,
        "dev_kept": 1.0,
    }
    assert [line["dev_kept"] for line in lines] == [1.0, 1.0, 0.0, 0.0, 1.0]


def test_tensorboard_reads_each_candidate_once_though_the_training_is_resumed_before_it(run: Run) -> None:
    """The training voids its own steps from its checkpoint on, while the candidates after it stay measured."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from trace_ray.realign.trackers import make_trackers

    measure(run, 0, 10, 20)
    tell(run, REALIGN)
    (resumed,) = make_trackers(("tensorboard",), run.realign.place, run.place.uri, 6)
    resumed.log(6, {"grad_norm": 1.0})
    resumed.flush()
    measure(run, 30, 40)
    tell(run, REALIGN)
    events = EventAccumulator(str(realign(run) / "tensorboard" / "dev")).Reload()
    assert sorted((e.step, e.value) for e in events.Scalars("dev_tpa/all")) == [(s, SHARES[s][0]) for s in SHARES]
    drifts = [value for _, value in sorted((e.step, e.value) for e in events.Scalars("dev_drift"))]
    assert drifts == pytest.approx([drift for _, drift in SHARES.values()])


class KilledError(BaseException):
    """Ends what it meets, as a kill does."""


def test_a_process_that_is_killed_while_telling_tells_the_rest_when_it_is_back(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(step: int) -> None:
        if step == 20:
            raise KilledError

    measure(run, 0, 10, 20, 30)
    with monkeypatch.context() as patched:
        patched.setattr(Lines, "before", staticmethod(killed))
        with pytest.raises(KilledError):
            tell(run, REALIGN)
    assert steps_told(run) == [0, 10]
    tell(run, REALIGN)
    assert steps_told(run) == [0, 10, 20, 30]


def test_a_tracker_that_is_down_costs_a_warning_and_is_told_later(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def down(_step: int) -> None:
        raise ConnectionError("its server is down")

    measure(run, 0, 10)
    with monkeypatch.context() as patched:
        patched.setattr(Lines, "before", staticmethod(down))
        tell(run, REALIGN)
    assert capsys.readouterr().err.count("was not told the figures of step 0: ConnectionError") == 1
    assert list((realign(run) / "tensorboard" / "dev").iterdir()), "the other tracker is told all the same"
    tell(run, REALIGN)
    assert steps_told(run) == [0, 10]


def test_what_is_measured_anew_of_another_adapter_is_told_anew(run: Run) -> None:
    measure(run, 0, 10)
    tell(run, REALIGN)
    measure(run, 10, adapter="another")
    tell(run, REALIGN)
    assert steps_told(run) == [0, 10, 10]


def test_trackers_are_told_while_the_training_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training waits here for what it never waits for: it would not end if its candidates were told at its end."""
    told_of_20, waiting = threading.Event(), [[10], [20], [30]]

    def before(step: int) -> None:
        if step == 20:
            told_of_20.set()

    def train(_run: Run, _config: Config) -> None:
        assert told_of_20.wait(60)

    def measured() -> bool:
        found = waiting.pop(0) if waiting else []
        measure(run, *found)
        return bool(found)

    monkeypatch.setattr(Lines, "before", staticmethod(before))
    monkeypatch.setattr(stage, "train", train)
    monkeypatch.setattr(stage, "_LOOK_S", 0.01)
    measure(run, 0)
    config: Any = SimpleNamespace(realign=REALIGN)
    measuring: Any = SimpleNamespace(run=run, config=config, measure=measured, stopped=lambda: None)
    stage._train_beside(measuring)
    assert steps_told(run)[:3] == [0, 10, 20]


def test_what_choosing_cost_is_a_share_of_what_the_steps_took(run: Run) -> None:
    """Candidates (the base among them) and scales that were measured, 2.5 s each, over steps of 3 and 9.5 s."""
    measure(run, 0, 10, 20)
    rows = [{"step": 1, "steps": 2, "seconds": 3.0}, {"step": 2, "steps": 2, "seconds": 9.5}]
    (run.realign.place / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = stage._facts(run, Choice(10, None), Kept(10, 100, "folder", {}))
    assert plain["share_of_training"] == pytest.approx(3 * 2.5 / 12.5, abs=1e-4)
    assert (plain["seconds"], plain["tokens"]) == (7.5, 3 * 99)
    base, ten, _ = validations(run)
    scales = {0: base, 30: ten, 70: ten, 100: ten}  # the ends are measured already
    scaled = stage._facts(run, Choice(10, None), Kept(10, 30, "folder", scales))
    assert scaled["share_of_training"] == pytest.approx(5 * 2.5 / 12.5, abs=1e-4)
